"""Answer files of challenges whose test sets have no public labels: the best photos of each query, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.evaluation.protocols import RetrievalTask
from t2ireid_plugin.evaluation.ranks import cosine_rows
from t2ireid_plugin.utils.atomic_io import atomic_write

BEST = 10  # photos of each query in an answer of AI City 2026 Track 4


def best_photos(task: RetrievalTask, number: int = BEST) -> list[npt.NDArray[np.int64]]:
    """Positions ``[number]`` of each query's most similar gallery entries, best first; ties in the gallery's order."""
    return [np.argsort(-row, kind="stable")[:number] for row in cosine_rows(task.queries, task.gallery)]


def write_answers(file: Path, task: RetrievalTask, paths: Sequence[str]) -> None:
    """Writes a line per query: the names of its `best_photos` without extension, between spaces; lines end in CRLF.

    Source: ``answer.txt`` of Shuyu-XJTU/PAB-for-ECCV26-Workshop-Track4.

    Args:
        file: to write, as a whole or not at all.
        task: queries in the order of the lines, ``g`` gallery entries.
        paths: of the gallery's photos ``[g]``.

    Raises:
        DataError: when it cannot be written.
    """
    names = [PurePath(path).stem for path in paths]
    lines = (" ".join(names[i] for i in best) + "\r\n" for best in best_photos(task))
    content = "".join(lines).encode()
    atomic_write(file, lambda draft: draft.write_bytes(content))
