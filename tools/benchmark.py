"""Measures this package against others: ``python tools/benchmark.py ranking [--size S] [--json FILE] …``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed

from benchmarks.main import main

if __name__ == "__main__":
    sys.exit(main())
