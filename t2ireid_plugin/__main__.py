"""``python -m t2ireid_plugin``: the command line, as child processes start it."""

import sys

from t2ireid_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
