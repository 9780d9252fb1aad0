"""Messages for users without FastReID, which is hidden here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HIDE = """
import importlib.util, sys
find_spec = importlib.util.find_spec
hidden = {hidden!r}
importlib.util.find_spec = lambda name, *more: None if name.partition('.')[0] in hidden else find_spec(name, *more)
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


@pytest.mark.slow
def test_importing_the_integration_names_missing_packages_and_the_fix() -> None:
    code = (
        "from t2ireid_plugin.errors import DependencyError\n"
        "try:\n    import t2ireid_plugin.integrations.fastreid\n"
        "except DependencyError as error:\n    print(error)\n"
    )
    done = run(["fastreid", "faiss", "tabulate", "termcolor"], code)
    assert done.returncode == 0, done.stderr
    assert "cannot import fastreid, faiss, tabulate, termcolor; " in done.stdout
    assert "on PYTHONPATH" in done.stdout
    assert "pip install 't2ireid-plugin[fastreid]'" in done.stdout


@pytest.mark.slow
def test_the_tool_ends_with_one_line() -> None:
    done = run(["fastreid"], "import runpy; runpy.run_path('tools/train_fastreid.py', run_name='__main__')")
    assert done.returncode == 2
    assert done.stderr.startswith("error: FastReID: cannot import fastreid")
    assert done.stderr.count("\n") == 1
