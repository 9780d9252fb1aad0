"""The command line of the benchmarks: ``python tools/benchmark.py NAME [--json FILE] …``.

A benchmark is a module with ``add_arguments(parser)`` and ``run(options) -> dict``. ``run`` prints a table and returns
its figures, which ``--json`` writes together with a description of the machine.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import everything, head, load, pretraining, search, search_folder, soak
from benchmarks.machine import describe_machine
from t2ireid_plugin.errors import T2IReIDError

COMMANDS: dict[str, ModuleType] = {
    **everything.PARTS,
    "head": head,
    "load": load,
    "pretraining": pretraining,
    "soak": soak,
    "search": search,
    "search-folder": search_folder,
    "all": everything,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a benchmark; returns 0 when it was measured, 2 for an error that the user can fix."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Measures this package against others.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        description = (module.__doc__ or "").split("\n\n")[0]
        command = commands.add_parser(name, help=description.splitlines()[0], description=description)
        module.add_arguments(command)
        command.add_argument("--json", metavar="FILE", type=Path, help="write the figures and the machine here")
    options = parser.parse_args(arguments)
    try:
        figures = COMMANDS[options.command].run(options)
    except T2IReIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        report = {
            "command": shlex.join(["python", "tools/benchmark.py", *arguments]),
            "machine": describe_machine(),
            options.command: figures,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0
