"""Files that are something else than their name says."""

from pathlib import Path

import pytest

from t2ireid_plugin.utils.safe_io import wrong_content

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\n"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (POINTER, "git-lfs pointer"),
        ("\n<!DOCTYPE html>\n<html><head><title>Google Drive</title>", "web page"),
        ("<html>", "web page"),
        ("PK\x03\x04 anything else", ""),
        ("", ""),
    ],
)
def test_names_what_a_download_left_instead(content: str, part: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text(content)
    problem = wrong_content(file)
    assert part in problem
    assert bool(problem) == bool(part)
