"""What is wrong with the image files of a dataset: one by one, with each other, and with the rows that name them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from t2ireid_plugin.data.annotations import missing_images
from t2ireid_plugin.prepare.check.files import EXTENSIONS, ImageFacts, inspect_image
from t2ireid_plugin.prepare.check.findings import TINY_HEIGHT, TINY_WIDTH, Example, Findings
from t2ireid_plugin.prepare.check.rows import Row, by_path
from t2ireid_plugin.prepare.check.workers import Lost, available_cores, run_all
from t2ireid_plugin.utils.progress import show_progress

_SUFFIXES = {suffix for suffixes in EXTENSIONS.values() for suffix in suffixes}


def check_images(
    folder: Path,
    rows: Sequence[Row],
    findings: Findings,
    *,
    workers: int | None = None,
    progress: bool = True,
    inspect: Callable[[str], ImageFacts] = inspect_image,
    seconds: float = 60.0,
) -> dict[str, ImageFacts]:
    """Looks at every image that a row names and adds what is wrong to ``findings``.

    Args:
        folder: what paths are relative to.
        rows: of the annotation.
        findings: added to.
        workers: processes, each on a core; None for all cores.
        progress: whether to say how far it is.
        inspect: looks at one file.
        seconds: an image that takes longer is given up.

    Returns:
        What is known of each image that is there, by path, in the annotation's order.
    """
    named = by_path(rows)
    missing = set(missing_images([os.path.join(folder, path) for path in named]))
    gone = [path for path in named if os.path.join(folder, path) in missing]
    findings.add("image_missing", [Example(named[path][0].number, path) for path in gone])
    paths = sorted(set(named).difference(gone), key=lambda path: named[path][0].number)
    found: dict[int, ImageFacts] = {}
    results = run_all(inspect, [str(folder / path) for path in paths], workers or available_cores(), seconds)
    for index, result in show_progress(results, len(paths), "reading images", " images", progress):
        found[index] = ImageFacts("image_lost", result.reason) if isinstance(result, Lost) else result
    facts = {path: found[index] for index, path in enumerate(paths)}
    _check_each(facts, named, findings)
    _check_shared_paths(named, findings)
    _check_same_bytes(facts, named, findings)
    findings.add("image_unnamed", [Example(path=path) for path in _unnamed(folder, named)])
    return facts


def _check_each(facts: dict[str, ImageFacts], named: dict[str, list[Row]], findings: Findings) -> None:
    for path, fact in facts.items():
        number = named[path][0].number
        if fact.problem:
            findings.add(fact.problem, [Example(number, path, fact.reason)])
        if is_tiny(fact):
            findings.add("image_tiny", [Example(number, path, f"{fact.width} x {fact.height} pixels")])
        suffix = os.path.splitext(path)[1].lower()
        if fact.format and suffix not in EXTENSIONS[fact.format]:
            findings.add("image_extension", [Example(number, path, f"{fact.format} in '{suffix}'")])


def is_tiny(fact: ImageFacts) -> bool:
    """Whether a decoded image is too small to show a person."""
    return bool(fact.height) and (fact.height < TINY_HEIGHT or fact.width < TINY_WIDTH)


def _check_shared_paths(named: dict[str, list[Row]], findings: Findings) -> None:
    for path, rows in named.items():
        if len(rows) > 1:
            kind = "image_contradicted" if _differ(rows) else "image_in_two_rows"
            findings.add(kind, [Example(rows[0].number, path, _told_apart(rows))])


def _check_same_bytes(facts: dict[str, ImageFacts], named: dict[str, list[Row]], findings: Findings) -> None:
    alike: dict[bytes, list[str]] = {}
    for path, fact in facts.items():
        if fact.fingerprint:
            alike.setdefault(fact.fingerprint, []).append(path)
    for paths in alike.values():
        if len(paths) > 1:
            rows = [row for path in paths for row in named[path]]
            value = f"as {_listed(paths[1:])}; {_told_apart(rows)}"
            kind = "file_contradicted" if _differ(rows) else "file_twice"
            findings.add(kind, [Example(rows[0].number, paths[0], value)])


def _differ(rows: Sequence[Row]) -> bool:
    return len({row.pid for row in rows}) > 1 or len({row.split for row in rows}) > 1


def _told_apart(rows: Sequence[Row]) -> str:
    """Whose the rows are, and where."""
    who = dict.fromkeys(f"{row.pid} in {row.split}" for row in rows)
    return f"rows {_listed([row.number for row in rows])}: identity {_listed(list(who))}"


def _listed(values: Sequence[object], most: int = 4) -> str:
    rest = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + rest


def _unnamed(folder: Path, named: Iterable[str]) -> list[str]:
    """Image files in the folder that are not in ``named``; links to folders are not followed, they may go round."""
    there = [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in _SUFFIXES
    ]
    return sorted(set(there).difference(named))
