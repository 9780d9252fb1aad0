"""Reading of untrusted files within limits: bytes, JSON and YAML.

A problem with the file is an OSError with a ``strerror``, a problem with its content a ValueError of one line, so that
each caller can add which file it needs.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

# Size limits in bytes: of a configuration, and of an annotation, table or image.
MAX_CONFIG_BYTES = 2**20
MAX_DATA_BYTES = 2**30
# Of a caption, in characters: the longest in a benchmark has about 500, and encoders read at most 512 tokens.
MAX_TEXT_LENGTH = 10_000


def open_file(path: str | Path, max_bytes: int = MAX_DATA_BYTES) -> BinaryIO:
    """Opens a file for reading bytes.

    Raises:
        OSError: when it cannot be read, is not a regular file (reading a pipe or a device may never end), has an
            impossible name, or is larger than ``max_bytes``.
    """
    try:
        info = os.stat(path)
    except ValueError as error:  # a zero byte or a lone surrogate
        raise OSError(errno.EINVAL, "not a valid file name") from error
    if stat.S_ISDIR(info.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "not a file but a pipe, socket or device")
    if info.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"{info.st_size:,} bytes exceed the limit of {max_bytes:,}")
    return open(path, "rb")


def read_bytes(path: str | Path, max_bytes: int = MAX_DATA_BYTES) -> bytes:
    """Reads a whole file.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path, max_bytes) as stream:
        return stream.read()


def wrong_content(path: str | Path) -> str:
    """Says why a file that should hold weights is something else that a download left there; empty if it is not.

    Raises:
        OSError: as `open_file`, without a limit of the size.
    """
    with open_file(path, sys.maxsize) as stream:
        start = stream.read(200).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself; run `git lfs pull` where it was cloned"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file itself; download it again with the link to the file"
    return ""


def decode_utf8(content: bytes) -> str:
    """The text of a file; a byte order mark is allowed.

    Raises:
        ValueError: naming the line and the byte that is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8") from error


def parse_json(text: str | bytes) -> Any:
    """Like `json.loads`, but rejects NaN, infinities and duplicate keys.

    Raises:
        ValueError: saying what is wrong, also for bytes that are not UTF-8.
    """
    if isinstance(text, bytes):
        text = decode_utf8(text)
    try:
        return json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_yaml(text: str | bytes) -> Any:
    """Like `yaml.safe_load`, but rejects duplicate keys.

    Raises:
        ValueError: saying where and what is wrong, also for bytes that are not UTF-8.
    """
    if isinstance(text, bytes):
        text = decode_utf8(text)
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(" ".join(str(error).split())) from error


def text_problem(text: str) -> str:
    """Describes why ``text`` cannot be a caption; empty if it can."""
    if len(text) > MAX_TEXT_LENGTH:
        return f"has {len(text):,} characters, more than the limit of {MAX_TEXT_LENGTH:,}"
    if "\0" in text:
        return "contains a zero byte"
    # JSON can hold a lone surrogate, for which tokenizers raise TypeError.
    return "contains a lone surrogate" if re.search("[\ud800-\udfff]", text) else ""


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate key {key[:80]!r}")
    return result


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's loader keeps the last of duplicate keys and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Composes a mapping; duplicate keys are an error."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value[:80]!r}", key.start_mark)
                seen.add(key.value)
        return node
