"""Training and evaluation: ``python tools/train_net.py --config-file F [--eval-only] [--resume] [KEY VALUE …]``."""

import sys

from t2ireid_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
