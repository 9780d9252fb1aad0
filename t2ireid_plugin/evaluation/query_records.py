"""``queries_<target>.npz``: the figures of each query of a run, by which runs are compared later.

``queries_<target>.jsonl`` has the ranks of another program instead, see `load_ranks`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.evaluation.result import RetrievalResult, query_figures
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.safe_io import decode_utf8, open_file, parse_json, read_bytes
from t2ireid_plugin.utils.text import first_line

Array = npt.NDArray

_FORMAT = 1  # of the file; a reader refuses versions that it does not know
_MAX_BYTES = 2**28  # unpacked; a query takes 36 under each protocol
# Columns in the file: field of RetrievalResult and type.
_COLUMNS = {
    "first_rank": ("first_rank", np.int32),
    "AP": ("AP", np.float64),
    "INP": ("INP", np.float64),
    "pid": ("pids", np.int64),
    "key": ("keys", np.uint64),
}


def query_keys(queries: Iterable[tuple[str, str]]) -> Array:
    """A key for each query, an image's path and a caption; uint64 ``[n]``, the same on every machine.

    Only the last two parts of the path count, so that the data may be moved. Equal captions of one image share a key;
    they share the embedding too, so they need not be distinguished.
    """
    keys = []
    for path, caption in queries:
        # Annotations may hold lone surrogates, which plain UTF-8 refuses.
        name = unicodedata.normalize("NFC", "/".join(PurePath(path).parts[-2:]))  # macOS may decompose it
        content = f"{name}\0{caption}".encode("utf-8", "surrogatepass")
        keys.append(int.from_bytes(blake2b(content, digest_size=8).digest(), "little"))
    return np.array(keys, dtype=np.uint64)


def records_path(folder: str | Path, target: str) -> Path:
    """The file for the queries of a target in a run's folder."""
    return Path(folder) / f"queries_{target}.npz"


def save_records(path: str | Path, results: Sequence[RetrievalResult], weights: str = "") -> None:
    """Writes the figures of the queries of one target under each protocol; equal results give equal bytes.

    Args:
        path: the file.
        results: of one target.
        weights: digest of the weights that gave them.

    Raises:
        DataError: when the file cannot be written; an existing file is then unchanged.
    """
    content: dict[str, Any] = {
        "format": np.array(_FORMAT),
        "target": np.array(results[0].target),
        "weights": np.array(weights),
        "protocols": np.array([result.protocol for result in results], dtype=np.str_),
    }
    for number, result in enumerate(results):
        # Numbered, since a protocol's name may not be a valid file name within the archive.
        for column, (field, kind) in _COLUMNS.items():
            content[f"{number}.{column}"] = np.asarray(getattr(result, field)).astype(kind, casting="same_kind")
    atomic_write(Path(path), lambda draft: np.savez_compressed(draft, **content))


def load_records(path: str | Path) -> dict[str, RetrievalResult]:
    """Reads the results that `save_records` wrote, by protocol; executes nothing in the file.

    Raises:
        DataError: when the file is missing, damaged, not of this kind or of a later version.
    """
    try:
        arrays = _read(Path(path))
        if (version := int(arrays["format"])) != _FORMAT:
            raise ValueError(f"it has version {version}, this program reads {_FORMAT}; test that run again")
        target, results = str(arrays["target"]), {}
        for number, protocol in enumerate(arrays["protocols"].tolist()):
            columns: dict[str, Any] = {
                field: arrays[f"{number}.{name}"].astype(kind, casting="same_kind")
                for name, (field, kind) in _COLUMNS.items()
            }
            shapes = {column.shape for column in columns.values()}
            if len(shapes) > 1:
                raise ValueError(f"the columns of protocol '{protocol}' have the shapes {sorted(shapes)}")
            results[protocol] = RetrievalResult(**columns, target=target, protocol=protocol)
        return results
    except Exception as error:  # zipfile, zlib and NumPy raise many types for damaged bytes
        reason = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise DataError(f"cannot read '{path}' as the queries of a run: {reason}") from error


def load_ranks(path: str | Path) -> RetrievalResult:
    """Reads ``queries_<target>.jsonl``: the text-to-image ranks of any program, a JSON object per query.

    ``image`` (path of the described photo, of which the last two parts count) and ``caption`` identify the query,
    ``pid`` is its identity in the annotation, and ``ranks`` are those of all its matches, ascending from 1.

    Raises:
        DataError: naming the line that is wrong.
    """
    path = Path(path)
    try:
        lines = decode_utf8(read_bytes(path)).strip().split("\n")
        images, captions, pids, ranks = zip(*(_parse_query(number, line) for number, line in enumerate(lines, 1)))
        _check_complete(images, pids, ranks)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}' as ranks: {first_line(error)}") from error
    return RetrievalResult(
        *query_figures(ranks),
        np.array(pids, np.int64),
        keys=query_keys(zip(images, captions)),
        target=path.stem.removeprefix("queries_"),
        protocol=OFFICIAL,
    )


def _parse_query(number: int, line: str) -> tuple[str, str, int, list[int]]:
    """Image, caption, pid and ranks of a line.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {first_line(error)}") from error
    kinds = {"image": str, "caption": str, "pid": int, "ranks": list}
    if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in kinds.items()):
        raise ValueError(f'line {number}: it must be {{"image": "…", "caption": "…", "pid": 7, "ranks": [1, 4]}}')
    ranks = row["ranks"]
    if not ranks or any(type(rank) is not int for rank in ranks) or ranks[0] < 1 or sorted(set(ranks)) != ranks:
        raise ValueError(f"line {number}: ranks must be integers from 1, ascending, one for each match in the gallery")
    return row["image"], row["caption"], row["pid"], ranks


def _check_complete(images: Sequence[str], pids: Sequence[int], ranks: Sequence[list[int]]) -> None:
    """Ranks of the best results alone would give too high an mAP: the gallery holds every described photo.

    Raises:
        ValueError: for a query with fewer ranks than described photos of its person.
    """
    photos = Counter(pid for _, pid in set(zip(images, pids)))
    for number, (pid, found) in enumerate(zip(pids, ranks), 1):
        if len(found) < photos[pid]:
            given = f"{len(found)} of the ranks, but the queries describe {photos[pid]} photos of pid {pid}"
            raise ValueError(f"line {number}: {given}; give the ranks of all matches in the whole gallery")


def _read(path: Path) -> dict[str, Array]:
    """All arrays of an ``.npz``."""
    with open_file(path) as stream:  # NumPy would not close a damaged file
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile) or file.zip is None:
            raise ValueError("a single array")
        unpacked = sum(part.file_size for part in file.zip.infolist())
        if unpacked > _MAX_BYTES:
            raise ValueError(f"it unpacks to {unpacked:,} bytes, more than the limit of {_MAX_BYTES:,}")
        # NumPy reads only as far as an array's end, which may be before its checksum.
        if (bad := file.zip.testzip()) is not None:
            raise ValueError(f"wrong checksum of {bad}")
        return {name: file[name] for name in file.files}
