"""Filters in Milvus' language."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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
        paths = [filter.path] if isinstance(filter.path, str) else filter.path
        # "0" is the character after "/"
        inside = [f"(path >= {_quoted(f'{path}/')} and path < {_quoted(f'{path}0')})" for path in paths]
        terms.append(f"({among('path', paths)} or {_any(inside)})")
    return " and ".join(terms)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def among(field: str, values: Iterable[str | int]) -> str:
    """Rows with one of the values in a field."""
    return f"{field} in {_quoted(list(values))}"


def _any(terms: Sequence[str]) -> str:
    """Terms joined by "or" as a balanced tree, for parsers recurse."""
    half = len(terms) // 2
    return f"({_any(terms[:half])} or {_any(terms[half:])})" if half else terms[0]
