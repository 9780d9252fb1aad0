"""Messages for users without FastReID, which is hidden here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RUN_WITHOUT = """
import importlib.util, runpy, sys
find_spec = importlib.util.find_spec
hidden = 'fastreid', 'faiss', 'tabulate', 'termcolor'
importlib.util.find_spec = lambda name, *more: None if name.partition('.')[0] in hidden else find_spec(name, *more)
sys.argv = ['tools/train_fastreid.py', '--config-file', 'x.yml']
runpy.run_path('tools/train_fastreid.py', run_name='__main__')
"""


@pytest.mark.slow
def test_the_tool_names_missing_packages_and_the_fix_in_one_line() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", RUN_WITHOUT]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: FastReID: cannot import fastreid, faiss, tabulate, termcolor; ")
    assert "on PYTHONPATH" in done.stderr
    assert "pip install faiss-cpu tabulate termcolor" in done.stderr
    assert done.stderr.count("\n") == 1
