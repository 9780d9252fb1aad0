"""What a run keeps of each query, so that runs can be compared later: ``queries_<target>.npz`` in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.ranking import QueryScores
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.safe_io import open_file

Array = npt.NDArray

_FORMAT = 1  # of the file; a reader refuses those it does not know
_MOST_BYTES = 2**28  # unpacked; a query takes 36 under each protocol
_TYPES = {"first_rank": np.int32, "AP": np.float64, "INP": np.float64, "pid": np.int64, "key": np.uint64}


class QueryRecord(NamedTuple):
    """Figures of the queries that have a positive, ``v`` of them, under one protocol; see `QueryScores`."""

    first_rank: Array  # [v] int32
    AP: Array  # [v] float64
    INP: Array  # [v] float64
    pid: Array  # [v] int64, as in the annotation
    key: Array  # [v] uint64, which query it is; see `query_keys`

    @classmethod
    def of(cls, scores: QueryScores, pids: npt.ArrayLike, keys: Array) -> QueryRecord:
        """The record of ``scores``, with identities and keys of all queries ``[n]``."""
        kept = scores.query_index
        return cls(scores.first_rank, scores.AP, scores.INP, np.asarray(pids)[kept], keys[kept])

    @property
    def scores(self) -> QueryScores:
        """As scores of the queries of this record, which ``pid [v]`` are the identities of."""
        return QueryScores(np.arange(len(self.key)), self.first_rank, self.AP, self.INP)

    def taken(self, order: Array) -> QueryRecord:
        """The queries at the positions ``order``, in that order."""
        return QueryRecord(*(column[order] for column in self))


class RunRecords(NamedTuple):
    """What one file holds."""

    target: str
    protocols: dict[str, QueryRecord]


def query_keys(queries: Iterable[tuple[str, str]]) -> Array:
    """A key for each query, an image's path and a caption; uint64 ``[n]``, the same on every machine.

    Of the path the last two parts count, so that the data may lie elsewhere. Equal captions of one image share a key;
    as they share the embedding too, they need not be told apart.
    """
    keys = [_key("/".join(PurePath(path).parts[-2:]), caption) for path, caption in queries]
    return np.array(keys, dtype=np.uint64)


def records_path(folder: str | Path, target: str) -> Path:
    """Where a run keeps the records of a target."""
    return Path(folder) / f"queries_{target}.npz"


def save_records(path: str | Path, target: str, protocols: Mapping[str, QueryRecord]) -> None:
    """Writes the records of a target, by protocol; the same records give the same bytes.

    Raises:
        DataError: when the file cannot be written; what was there before is then untouched.
        ValueError: when the columns of a record do not fit each other or hold what no query can have.
    """
    content: dict[str, Any] = {
        "format": np.array(_FORMAT),
        "target": np.array(target),
        "protocols": np.array(list(protocols), dtype=np.str_),
    }
    for number, (name, record) in enumerate(protocols.items()):
        _check(record, name)
        # By number: a protocol may be called what is no file name within the archive.
        content.update(
            {f"{number}.{field}": np.asarray(getattr(record, field)).astype(kind) for field, kind in _TYPES.items()}
        )
    atomic_write(Path(path), lambda draft: np.savez_compressed(draft, **content))


def load_records(path: str | Path) -> RunRecords:
    """Reads what `save_records` wrote; nothing in the file is executed.

    Raises:
        DataError: when the file is missing, damaged, not of this kind or of a later version.
    """
    try:
        arrays = _read(Path(path))
    except FileNotFoundError as error:
        raise DataError(f"there is no '{path}'") from error
    except Exception as error:  # zipfile, zlib and NumPy raise whatever a wrong byte leads them to
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"'{path}' is damaged, or no file of a run's queries: {reason}") from error
    try:
        version = int(arrays["format"])
        if version != _FORMAT:
            raise DataError(f"'{path}' is of version {version}, this program reads {_FORMAT}: test that run again")
        protocols = {}
        for number, name in enumerate(arrays["protocols"].tolist()):
            record = QueryRecord(**{field: arrays[f"{number}.{field}"] for field in _TYPES})
            _check(record, name)
            protocols[name] = record
        return RunRecords(str(arrays["target"]), protocols)
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"'{path}' is no file of a run's queries: it has no {error}") from error
    except (ValueError, TypeError, SystemError) as error:  # the last one is NumPy's for what is beyond Unicode
        raise DataError(f"'{path}' holds what no run writes: {error}") from error


def _key(path: str, caption: str) -> int:
    # Annotations may hold half a character, which plain UTF-8 refuses.
    text = f"{path}\0{caption}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _read(path: Path) -> dict[str, Array]:
    """All arrays of an ``.npz``."""
    with open_file(path) as stream:  # which NumPy would leave open over a damaged file
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        unpacked = sum(part.file_size for part in file.zip.infolist()) if file.zip is not None else 0
        if unpacked > _MOST_BYTES:
            raise ValueError(f"it unpacks to {unpacked:,} bytes, more than the {_MOST_BYTES:,} taken")
        # NumPy reads only as far as it must, and so may not come to the check sums.
        if file.zip is not None and (bad := file.zip.testzip()) is not None:
            raise ValueError(f"wrong check sum of {bad}")
        arrays = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # bytes, where a header is damaged
            raise ValueError("it holds more than arrays")
        return arrays


def _check(record: QueryRecord, protocol: str) -> None:
    """Raises ValueError unless a record is what an evaluation can have found."""
    shapes = {np.shape(column) for column in record}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1 or shapes == {(0,)}:
        raise ValueError(f"the columns of protocol '{protocol}' have the shapes {sorted(shapes)}")
    for field, kind in _TYPES.items():
        found = np.asarray(getattr(record, field))
        if not np.can_cast(found.dtype, kind, "same_kind"):
            raise ValueError(f"{field} of protocol '{protocol}' is {found.dtype}, not {np.dtype(kind)}")
    shares = np.stack([record.AP, record.INP])
    if np.min(record.first_rank) < 1 or not ((shares > 0) & (shares <= 1)).all():
        raise ValueError(f"protocol '{protocol}' has ranks below 1, or AP or INP not between 0 and 1")
