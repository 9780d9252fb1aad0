"""Measures this package against others: ``python tools/benchmark.py ranking [--size S] [--json FILE] …``."""

import sys

from t2ireid_plugin.benchmark.main import main

if __name__ == "__main__":
    sys.exit(main())
