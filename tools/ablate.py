"""Trains a grid of settings with several seeds: ``python tools/ablate.py --config-file F --grid G --out DIR``."""

import sys

from t2ireid_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["ablate", *sys.argv[1:]]))
