"""What all tests with hostile files need."""

import pytest

from t2ireid_plugin.cli import main


@pytest.fixture
def refused(capsys):
    """`refused(*words)`: the one line that the command line ends with, with exit status 2."""

    def run(*words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert len(last) < 2500
        return last.removeprefix("error: ")

    return run
