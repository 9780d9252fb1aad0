"""The options of ``t2ireid ablate``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``t2ireid ablate``."""
    parser.add_argument("--config-file", metavar="FILE", required=True, help="configuration that the rows change")
    parser.add_argument("--grid", metavar="FILE", required=True, help="YAML with the rows")
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="a folder for the runs and the table")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these and the baseline")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="train.seed of each run")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a run (1)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (as many as the cores allow)")
    parser.add_argument("--target", metavar="NAME", help="what the table is of, where there are several targets")
    parser.add_argument(
        "--probe",
        nargs="*",
        metavar="KEY VALUE",
        help="probe each run as well (t2ireid probe), with settings such as data.root DIR of people who change clothes",
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="settings of all rows")
