"""``t2ireid prepare table``: makes a dataset from a user's own photos and a table of captions."""
