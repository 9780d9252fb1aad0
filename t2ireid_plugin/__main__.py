"""``python -m t2ireid_plugin``: the command line without its script, as child processes call it."""

import sys

from t2ireid_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
