"""What a user without FastReID is told; runs everywhere, with FastReID hidden."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
# As if nothing of it were there, in a process of its own.
HIDE = """
import importlib.util, sys
found = importlib.util.find_spec
hidden = {hidden!r}
importlib.util.find_spec = lambda name, *more: None if name.partition('.')[0] in hidden else found(name, *more)
sys.argv = ['tools/train_fastreid.py', '--config-file', 'x.yml']
"""


def run(hidden, code):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=hidden) + code],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_the_integration_says_what_is_missing_and_how_to_get_it() -> None:
    code = (
        "from t2ireid_plugin.errors import DependencyError\n"
        "try:\n    import t2ireid_plugin.integrations.fastreid\n"
        "except DependencyError as error:\n    print(error)\n"
    )
    done = run(["fastreid", "faiss", "tabulate", "termcolor"], code)
    assert done.returncode == 0, done.stderr
    assert "needs fastreid, faiss, tabulate, termcolor, which" in done.stdout
    assert "on PYTHONPATH" in done.stdout
    assert "pip install 't2ireid-plugin[fastreid]'" in done.stdout


def test_the_tool_says_it_in_one_line() -> None:
    done = run(["fastreid"], "import runpy; runpy.run_path('tools/train_fastreid.py', run_name='__main__')")
    assert done.returncode == 2
    assert done.stderr.startswith("error: FastReID needs fastreid")
    assert done.stderr.count("\n") == 1
