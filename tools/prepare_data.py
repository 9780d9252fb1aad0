"""Creates and checks datasets: ``python tools/prepare_data.py synthetic OUT [--train-ids N …]``."""

import sys

from t2ireid_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
