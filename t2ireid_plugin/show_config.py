"""Settings as text for readers: each with its comment in `config`, and the packaged configurations with a line each."""

from __future__ import annotations

import ast
import inspect
import io
import itertools
import re
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from yacs.config import CfgNode

from t2ireid_plugin import config
from t2ireid_plugin.utils.text import text_table


def annotated(cfg: CfgNode) -> str:
    """A configuration as YAML with the comments of the defaults, which `config.load_cfg` reads back."""
    return "\n".join(_lines(config.to_dict(cfg), _comments(), ""))


def _lines(table: Mapping[str, Any], comments: Mapping[str, tuple[list[str], str]], prefix: str) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in table.items():
        name = f"{prefix}{key}"
        above, beside = comments.get(name, ([], ""))
        yield from (f"{indent}{line}" for line in above)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:{beside}"
            yield from _lines(value, comments, f"{name}.")
        else:
            text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6)
            yield f"{indent}{key}: {text.strip()[1:-1]}{beside}"


def _comments() -> dict[str, tuple[list[str], str]]:
    """The comments of each default by the setting's full name: lines above it, and the one beside it or ""."""
    source = inspect.getsource(config)
    above: dict[int, str] = {}
    beside: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own_line = token.line.lstrip().startswith("#")
            (above if own_line else beside)[token.start[0]] = token.string
    comments = {}
    for name, line in _key_lines(_defaults(source), ""):
        first = line
        while first - 1 in above:
            first -= 1
        end = beside.pop(line, "")  # of the first setting in the line
        comments[name] = [above[i] for i in range(first, line)], f"  {end}" if end else ""
    return comments


def _defaults(source: str) -> ast.Dict:
    nodes = (node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign))
    return next(n.value for n in nodes if ast.unparse(n.target) == "_DEFAULTS" and isinstance(n.value, ast.Dict))


def _key_lines(table: ast.Dict, prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in zip(table.keys, table.values):
        assert isinstance(key, ast.Constant)
        name = prefix + str(key.value)
        yield name, key.lineno
        if isinstance(value, ast.Dict):
            yield from _key_lines(value, f"{name}.")


def describe_configs() -> str:
    """A table of the packaged configurations: name, and the first sentence of the file's comment."""
    rows = []
    for name in config.config_names():
        text: str = config.config_path(name).read_text(encoding="utf-8")
        lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
        comment = " ".join(line.removeprefix("#").strip() for line in lines)
        rows.append([name, re.split(r"\.(?: |$)", comment)[0]])
    return text_table(["name", "what it is"], rows, text_columns=2)
