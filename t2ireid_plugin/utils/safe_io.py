"""Files that come from somebody else, read within limits: bytes, JSON and YAML.

Problems with the file are an OSError with a ``strerror``, problems with its content a ValueError of one line, so that
each reader can say in its own words which file it needed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

# The largest files taken, in bytes: a configuration, and an annotation, table or image.
MAX_CONFIG_BYTES = 2**20
MAX_DATA_BYTES = 2**30
# The longest caption, in characters: the longest benchmark's have some 500, and encoders read no more than 512 tokens.
MAX_TEXT_LENGTH = 10_000
# How deep a configuration's lists and tables may lie in each other, and how many values it may have, counted as often
# as aliases repeat them.
_MOST_DEPTH = 50
_MOST_NODES = 100_000


def open_file(path: str | Path, most: int = MAX_DATA_BYTES) -> BinaryIO:
    """A file to read bytes from.

    Raises:
        OSError: when it cannot be read, is no plain file (reading a pipe or a device may never end), has a name that
            no file can have, or more than ``most`` bytes.
    """
    try:
        found = os.stat(path)
    except ValueError as error:  # a zero byte or half a character
        raise OSError(errno.EINVAL, "no file can have this name") from error
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a file but a pipe, socket or device")
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"its {found.st_size:,} bytes are more than the {most:,} taken")
    return open(path, "rb")


def read_bytes(path: str | Path, most: int = MAX_DATA_BYTES) -> bytes:
    """A whole file.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path, most) as stream:
        return stream.read()


def parse_json(text: str | bytes) -> Any:
    """What `json.loads` gives, but refuses what JSON forbids: NaN, infinities and a key twice in an object.

    Raises:
        ValueError: saying what is wrong; of bytes that are not UTF-8, with or without a byte order mark, too.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str | bytes) -> Any:
    """What `yaml.safe_load` gives, with a key once in a table, and without repetition or nesting beyond measure.

    Raises:
        ValueError: saying where and what is wrong; of bytes that are not UTF-8 too.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        return yaml.load(text, _BoundedLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(" ".join(str(error).split())) from error


def text_problem(text: str, most: int = MAX_TEXT_LENGTH) -> str:
    """Why a text is none that people write and tokenizers read; empty for one that is."""
    if len(text) > most:
        return f"has {len(text):,} characters, more than the {most:,} taken"
    if "\0" in text:
        return "holds a zero byte"
    return "" if is_unicode(text) else "holds half a character (a lone surrogate)"


def is_unicode(text: str) -> bool:
    """False for one half of a surrogate pair, which JSON can hold and tokenizers raise TypeError for."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {double[:80]!r} is twice in one object")
    return found


class _BoundedLoader(yaml.SafeLoader):
    """Refuses nested aliases that grow without end, depth, and keys that are twice in a table."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # of finished nodes, by identity

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node, counted."""
        alias = self.check_event(yaml.AliasEvent)
        mark, before = self.peek_event().start_mark, self._nodes
        self._depth += 1
        self._nodes += 1
        if self._depth > _MOST_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"more than {_MOST_DEPTH} levels of nesting", mark)
        node = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias of what it is itself a part of", mark)
        if alias:
            self._nodes += self._sizes[id(node)]
        if self._nodes > _MOST_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {_MOST_NODES:,} values", mark)
        self._sizes[id(node)] = self._nodes - before
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The next table, whose keys must differ."""
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value[:80]!r} is twice in one table"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return node
