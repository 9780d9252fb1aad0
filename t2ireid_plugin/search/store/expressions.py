"""Filters in Milvus' language."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from t2ireid_plugin.search.rows import Filter


def expression(filter: Filter) -> str:
    """The filter in Milvus' language; texts are written as in JSON, whose escapes it reads."""
    terms = []
    if filter.camera is not None:
        terms.append(among("camera", [filter.camera] if isinstance(filter.camera, str) else filter.camera))
    if filter.after is not None:
        terms.append(f"time >= {float(filter.after)!r}")
    if filter.before is not None:
        terms.append(f"time < {float(filter.before)!r}")
    if filter.track is not None:
        terms.append(f"track == {filter.track}")
    if filter.path is not None:
        inside = f"path >= {_quoted(f'{filter.path}/')} and path < {_quoted(f'{filter.path}0')}"  # "0" follows "/"
        terms.append(f"(path == {_quoted(filter.path)} or ({inside}))")
    return " and ".join(terms)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def among(field: str, values: Iterable[str | int]) -> str:
    """Rows with one of the values in a field."""
    return f"{field} in {_quoted(list(values))}"
