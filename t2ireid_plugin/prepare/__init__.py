"""Commands that check a dataset or turn a table of one's own into one."""
