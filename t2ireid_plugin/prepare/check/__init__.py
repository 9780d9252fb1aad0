"""``t2ireid prepare check``: checks all images, texts, identities and counts of a dataset and reports every problem."""

from t2ireid_plugin.prepare.check.command import add_arguments, check_dataset, run

__all__ = ["add_arguments", "check_dataset", "run"]
