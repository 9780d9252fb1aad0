"""Parts of ``benchmarks/gpu.py``: functions from a `Setup` to rows, each with what was measured and its value."""
