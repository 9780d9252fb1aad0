"""Measurements against torchreid and others, by ``python tools/benchmark.py``; no other part reads them."""
