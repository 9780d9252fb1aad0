"""Options of ``t2ireid ablate``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``t2ireid ablate``."""
    parser.add_argument("--config-file", metavar="FILE", required=True, help="configuration that the rows change")
    parser.add_argument("--grid", metavar="FILE", required=True, help="YAML file with the rows")
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder for the runs and the table")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="train only these rows and the baseline")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="train.seed of each run")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads per run (1)")
    parser.add_argument("--jobs", type=int, metavar="N", help="parallel runs (as many as the cores allow)")
    parser.add_argument("--target", metavar="NAME", help="target of the table, if the runs have several")
    parser.add_argument(
        "--probe",
        nargs="*",
        metavar="KEY VALUE",
        help="probe each run as well (t2ireid probe), with settings such as data.root DIR of people who change clothes",
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="settings of all rows")
