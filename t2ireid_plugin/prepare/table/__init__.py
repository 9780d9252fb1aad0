"""``t2ireid prepare table``: makes a dataset from a user's own photos and a table of captions."""

from t2ireid_plugin.prepare.table.write import add_arguments, run, write_table

__all__ = ["add_arguments", "run", "write_table"]
