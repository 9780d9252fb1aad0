"""A user's own photos and sentences, from a table to a dataset: ``t2ireid prepare table``."""

from t2ireid_plugin.prepare.table.write import add_arguments, run, write_table

__all__ = ["add_arguments", "run", "write_table"]
