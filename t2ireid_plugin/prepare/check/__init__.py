"""``t2ireid prepare check``: checks all images, texts, identities and counts of a dataset and reports every problem."""
