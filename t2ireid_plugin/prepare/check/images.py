"""Checks the images of a dataset: each file, identical files, and the rows that use them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from t2ireid_plugin.data.annotations import missing_images
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.check.findings import MIN_HEIGHT, MIN_WIDTH, Example, Findings
from t2ireid_plugin.prepare.check.image_file import SUFFIXES, ImageFacts, inspect_image
from t2ireid_plugin.prepare.check.rows import Row, by_path
from t2ireid_plugin.utils.cpu import available_cores
from t2ireid_plugin.utils.progress import show_progress
from t2ireid_plugin.utils.signals import stop_on_signal

_CHUNK = 32  # images per task


def check_images(
    folder: Path, rows: Sequence[Row], findings: Findings, workers: int | None = None, progress: bool = True
) -> dict[str, ImageFacts]:
    """Inspects every image in ``rows`` and adds problems to ``findings``.

    Args:
        folder: folder that image paths are relative to.
        rows: of the annotation.
        findings: added to.
        workers: processes; None for one per core.
        progress: print progress on standard error.

    Returns:
        The facts of each existing image by path, in the annotation's order.

    Raises:
        DataError: when a process died.
    """
    rows_of = by_path(rows)
    missing = set(missing_images([os.path.join(folder, path) for path in rows_of]))
    gone = [path for path in rows_of if os.path.join(folder, path) in missing]
    findings.add("image_missing", [Example(rows_of[path][0].number, path) for path in gone])
    paths = [path for path in rows_of if path not in set(gone)]
    facts = dict(zip(paths, _inspect_all([str(folder / path) for path in paths], workers, progress)))
    _check_each(facts, rows_of, findings)
    _check_shared_paths(rows_of, findings)
    _check_same_bytes(facts, rows_of, findings)
    findings.add("image_unnamed", [Example(path=path) for path in _unused_images(folder, rows_of)])
    return facts


def is_tiny(facts: ImageFacts) -> bool:
    """True for a decoded image too small to show a person."""
    return bool(facts.height) and (facts.height < MIN_HEIGHT or facts.width < MIN_WIDTH)


def _inspect_all(paths: Sequence[str], workers: int | None, progress: bool) -> list[ImageFacts]:
    """Facts of all files in order. In processes rather than threads, as standard error is captured per process."""
    workers = min(workers or available_cores(), -(-len(paths) // _CHUNK))
    if workers <= 1:
        return list(show_progress(map(inspect_image, paths), len(paths), "reading images", " images", progress))
    pool = ProcessPoolExecutor(workers, initializer=_init_worker)
    try:
        with stop_on_signal():  # processes of a pool would outlive a SIGTERM
            results = pool.map(inspect_image, paths, chunksize=_CHUNK)
            return list(show_progress(results, len(paths), "reading images", " images", progress))
    except BrokenProcessPool as error:
        raise DataError(
            "reading images: a process died, usually because memory is full; lower --workers, and with --workers 1 see "
            "at which image it stops"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes; the main one handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_each(facts: dict[str, ImageFacts], rows_of: dict[str, list[Row]], findings: Findings) -> None:
    for path, fact in facts.items():
        number = rows_of[path][0].number
        if fact.problem:
            findings.add(fact.problem, [Example(number, path, fact.reason)])
        if is_tiny(fact):
            findings.add("image_tiny", [Example(number, path, f"{fact.width} x {fact.height} pixels")])
        suffix = os.path.splitext(path)[1].lower()
        if fact.format and suffix not in SUFFIXES[fact.format]:
            findings.add("image_extension", [Example(number, path, f"{fact.format} in '{suffix}'")])


def _check_shared_paths(rows_of: dict[str, list[Row]], findings: Findings) -> None:
    for path, rows in rows_of.items():
        if len(rows) > 1:
            kind = "image_contradicted" if _differ(rows) else "image_in_two_rows"
            findings.add(kind, [Example(rows[0].number, path, _describe(rows))])


def _check_same_bytes(facts: dict[str, ImageFacts], rows_of: dict[str, list[Row]], findings: Findings) -> None:
    paths_of: dict[bytes, list[str]] = {}
    for path, fact in facts.items():
        if fact.digest:
            paths_of.setdefault(fact.digest, []).append(path)
    for paths in paths_of.values():
        if len(paths) > 1:
            rows = [row for path in paths for row in rows_of[path]]
            kind = "file_contradicted" if _differ(rows) else "file_twice"
            findings.add(kind, [Example(rows[0].number, paths[0], f"same as {_list(paths[1:])}; {_describe(rows)}")])


def _differ(rows: Sequence[Row]) -> bool:
    return len({row.pid for row in rows}) > 1 or len({row.split for row in rows}) > 1


def _describe(rows: Sequence[Row]) -> str:
    identities = dict.fromkeys(f"{row.pid} in {row.split}" for row in rows)
    return f"rows {_list([row.number for row in rows])}: identity {_list(list(identities))}"


def _list(values: Sequence[object], limit: int = 4) -> str:
    rest = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(map(str, values[:limit])) + rest


def _unused_images(folder: Path, used: Iterable[str]) -> list[str]:
    """Image files below the folder that are not used; links to folders are not followed, they may form a cycle."""
    suffixes = {suffix for group in SUFFIXES.values() for suffix in group}
    files = [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes
    ]
    return sorted(set(files).difference(used))
