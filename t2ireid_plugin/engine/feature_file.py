"""A file of token features in the safetensors format, written as it is computed and read where it lies on disk.

Its tensors are ``keys [n, 16]`` (uint8, a hash of each text), ``starts [n + 1]`` (int64) and ``features [N, D]``
(float16), the tokens of text ``i`` in rows ``starts[i]`` to ``starts[i + 1]``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.progress import show_progress

_KEY_BYTES = 16
_TYPES: dict[str, Any] = {"U8": np.uint8, "I64": np.int64, "F16": np.float16}
Rows = npt.NDArray[np.float16]


class FeatureFile:
    """The features in a file, mapped into memory: processes share its pages, and only what is read takes memory."""

    def __init__(self, keys: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], features: Rows) -> None:
        packed = keys.tobytes()
        self._starts, self._features = starts, features
        self._number = {packed[i : i + _KEY_BYTES]: i // _KEY_BYTES for i in range(0, len(packed), _KEY_BYTES)}

    @classmethod
    def open(cls, path: Path) -> FeatureFile | None:
        """None where there is no such file, or it is no longer whole."""
        try:
            with open(path, "rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(length))
            parts = [_map(path, 8 + length, header[name]) for name in ("keys", "starts", "features")]
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read
            path.touch()  # the one unused longest gives way when room is needed
        return cls(*parts)

    def __len__(self) -> int:
        return len(self._number)

    def find(self, key: bytes) -> Rows | None:
        """A text's features ``[length, D]``."""
        number = self._number.get(key)
        return None if number is None else self._features[self._starts[number] : self._starts[number + 1]]


def write_features(path: Path, keys: Sequence[bytes], lengths: Sequence[int], rows: Iterable[Rows], show: bool) -> None:
    """Writes what `FeatureFile` reads, whole or not at all, a text at a time.

    Args:
        path: in a folder that exists.
        keys, lengths: of the texts.
        rows: features ``[length, D]`` of each text, in this order; computed while they are written.
        show: a progress bar.

    Raises:
        DataError: when it cannot be written.
    """
    coming = iter(show_progress(rows, len(keys), "text features", "text", show))

    def write(draft: Path) -> None:
        first = next(coming)
        starts = np.array([0, *itertools.accumulate(lengths)])
        shapes = {
            "keys": ("U8", [len(keys), _KEY_BYTES]),
            "starts": ("I64", [len(starts)]),
            "features": ("F16", [int(starts[-1]), first.shape[1]]),
        }
        with open(draft, "wb") as stream:
            stream.write(_header(shapes))
            stream.write(b"".join(keys))
            stream.write(starts.tobytes())
            for part in itertools.chain([first], coming):
                stream.write(np.ascontiguousarray(part).tobytes())

    atomic_write(path, write)


def make_room(folder: Path, room: int) -> None:
    """Deletes files of features, the one that was unused longest first, until the others take no more than ``room``."""
    files = [file for file in folder.glob("*.safetensors") if not file.name.startswith(".")]  # no drafts
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        room -= file.stat().st_size
        if room < 0:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process is inside; one that dies inside lets the next one in."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes may then do the same work, one after the other taking the name
        yield
        return
    with open(folder / "lock", "wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _header(shapes: dict[str, tuple[str, list[int]]]) -> bytes:
    """Of a safetensors file: its length, and where each tensor lies behind it."""
    table, end = {}, 0
    for name, (kind, shape) in shapes.items():
        start, end = end, end + math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)  # so that numbers lie on addresses that are multiples of their size
    return struct.pack("<Q", len(text)) + text


def _map(path: Path, offset: int, entry: dict[str, Any]) -> Any:
    """A tensor of the file as a read-only array."""
    start, _ = entry["data_offsets"]
    kind, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
    return np.memmap(path, dtype=kind, mode="r", offset=offset + start, shape=shape)
