"""Checks a whole dataset before it is trained on: images, texts, identities and counts; never stops at a problem."""

from t2ireid_plugin.prepare.check.command import add_arguments, check_dataset, run
from t2ireid_plugin.prepare.check.findings import KINDS, Example, Finding
from t2ireid_plugin.prepare.check.report import CheckReport, table, write_json
from t2ireid_plugin.prepare.check.sheet import write_sheet

__all__ = [
    "KINDS",
    "CheckReport",
    "Example",
    "Finding",
    "add_arguments",
    "check_dataset",
    "run",
    "table",
    "write_json",
    "write_sheet",
]
