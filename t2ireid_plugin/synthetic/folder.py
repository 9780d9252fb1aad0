"""Folder of drawn people in CUHK-PEDES's layout: `reid_raw.json`, `imgs/`, `attributes.json` and `synthetic.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes

FOLDER = "CUHK-PEDES"
# Raised when the same arguments no longer give the same bytes, so that an older folder is not mistaken for a new one.
FORMAT = 4


def read_json(file: Path, truth: str = "true attributes") -> Any:
    """Content of one of the folder's JSON files, which is read for the sake of ``truth``.

    Raises:
        DataError: when it is missing or damaged.
    """
    try:
        return parse_json(read_bytes(file))
    except (OSError, ValueError) as error:
        reason, command = getattr(error, "strerror", error), "`t2ireid prepare synthetic`"
        raise DataError(f"'{file}' cannot be read ({reason}); only people drawn by {command} have {truth}") from None


def is_drawn(root: str | Path, folder: str = FOLDER) -> bool:
    """True if ``root/folder`` was written by `write_synthetic`, which leaves the attributes there."""
    return (Path(root) / folder / "attributes.json").is_file()
