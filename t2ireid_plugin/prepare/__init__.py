"""Preparing datasets: ``check`` looks for problems in a dataset, ``table`` makes one from a user's own photos."""
