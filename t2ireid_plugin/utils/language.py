"""Reports and the console's results in English or Chinese. Errors and the log's details are always in English."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from t2ireid_plugin.utils.text import CJK

VARIABLE = "T2IREID_LANG"  # in the environment: zh for Chinese, anything else for English

_current: ContextVar[str] = ContextVar("language", default="")


def language() -> str:
    """``en`` or ``zh``: that of `use_language`, or else of the environment."""
    return _current.get() or language_of(())


def language_of(texts: Sequence[str]) -> str:
    """The language to show ``texts`` in: the environment's if it names one, else Chinese if most of them are."""
    if chosen := os.environ.get(VARIABLE):
        return "zh" if chosen.startswith("zh") else "en"
    chinese = sum(re.search(f"[{CJK}]", text) is not None for text in texts)
    return "zh" if 2 * chinese > len(texts) else "en"


@contextlib.contextmanager
def use_language(name: str) -> Iterator[None]:
    """Within, `say` speaks ``en`` or ``zh``."""
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


def say(text: str, **values: Any) -> str:
    """The English ``text``, or its translation in ``chinese.json``, with values in its ``{places}``."""
    return (_chinese().get(text, text) if language() == "zh" else text).format(**values)


@functools.cache
def _chinese() -> dict[str, str]:
    return json.loads(Path(__file__).with_name("chinese.json").read_text(encoding="utf-8"))
