"""Checks the images of a dataset: each file, identical files, and the rows that use them."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import joblib

from t2ireid_plugin.data.image_files import ImageFolder
from t2ireid_plugin.data.images import FORMATS, decoding_problem, image_format, is_transparent, read_pixels
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.check.report import ERROR, MIN_HEIGHT, MIN_WIDTH, Example, Findings, list_some
from t2ireid_plugin.prepare.check.rows import Row, group_by
from t2ireid_plugin.utils.progress import show_progress
from t2ireid_plugin.utils.safe_io import read_bytes
from t2ireid_plugin.utils.signals import STOP_SIGNALS, stop_on_signal

_CHUNK = 32  # images per task


class ImageFacts(NamedTuple):
    """Properties of an image file."""

    problem: str = ""  # a kind of finding: image_unreadable, image_truncated or image_damaged
    reason: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    digest: bytes = b""  # of the file's bytes; empty for a file without any
    transparent: bool = False

    @property
    def is_tiny(self) -> bool:
        """True for a decoded image too small to show a person."""
        return bool(self.height) and (self.height < MIN_HEIGHT or self.width < MIN_WIDTH)


def check_images(
    folder: Path,
    rows: Sequence[Row],
    findings: Findings,
    workers: int | None = None,
    progress: bool = True,
    searched: Sequence[Row] | None = None,
) -> dict[str, ImageFacts]:
    """Inspects every image in ``rows`` and adds problems to ``findings``.

    Args:
        folder: folder that image paths are relative to.
        rows: of the annotation.
        findings: added to.
        workers: processes; None for one per core.
        progress: print progress on standard error.
        searched: those of the rows whose images should be distinct; None for all.

    Returns:
        The facts of each existing image by path, in the annotation's order.

    Raises:
        DataError: when a process died.
    """
    rows_of = group_by(rows, lambda row: row.path)
    images = ImageFolder(folder)
    paths = dict(zip(rows_of, images.find(list(rows_of))))
    missing = [Example(rows_of[name][0].number, name, images.difference(name)) for name in paths if not paths[name]]
    findings.add("image_missing", missing)
    files = {name: path for name, path in paths.items() if path}
    facts = dict(zip(files, _inspect_all([*files.values()], workers, progress)))
    _check_each(facts, rows_of, findings)
    _check_shared(facts, rows_of if searched is None else group_by(searched, lambda row: row.path), findings)
    suffixes = {suffix for _, group in FORMATS.values() for suffix in group}
    every = [name for name in images.files if os.path.splitext(name)[1].lower() in suffixes]
    unnamed = set(filter(None, images.find([*files, *every]))) - set(files.values())  # a link to a named file is not
    findings.add("image_unnamed", [Example(path=os.path.relpath(path, folder)) for path in sorted(unnamed)])
    return facts


def inspect_image(path: str) -> ImageFacts:
    """Reads and decodes an image file as training does. Never raises.

    Redirects the standard error of the process meanwhile, so no other thread may use it.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        return ImageFacts("image_unreadable", error.strerror or str(error))
    if not data:
        return ImageFacts("image_unreadable", "the file is empty")
    facts = ImageFacts(format=image_format(data[:12]), digest=hashlib.blake2b(data, digest_size=16).digest())
    if not facts.format:
        return facts._replace(problem="image_unreadable", reason=f"not an image file, it begins with {data[:12]!r}")
    try:
        with _decoder_warnings() as lines:
            height, width = read_pixels(path).shape[:2]
    except DataError as error:
        reason = str(error).rpartition(f"'{path}': ")[2]
        if "truncated" in f"{reason} {decoding_problem(data)}".lower():
            return facts._replace(problem="image_truncated", reason="the file is truncated")
        return facts._replace(problem="image_unreadable", reason=reason)
    facts = facts._replace(height=height, width=width, transparent=is_transparent(data))
    # Decoders continue after damage, and fill what they cannot decode.
    warning = next((line for line in lines if re.search("corrupt|premature", line, re.IGNORECASE)), "")
    return facts._replace(problem="image_damaged", reason=warning) if warning else facts


def _inspect_all(paths: Sequence[str], workers: int | None, progress: bool) -> list[ImageFacts]:
    """Facts of all files in order. In processes rather than threads, as standard error is captured per process."""
    workers = min(workers or joblib.cpu_count(), -(-len(paths) // _CHUNK))
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
    for number in STOP_SIGNALS:  # a terminal signals all processes; the main one handles it
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_each(facts: dict[str, ImageFacts], rows_of: dict[str, list[Row]], findings: Findings) -> None:
    for path, fact in facts.items():
        number = rows_of[path][0].number
        if fact.problem:
            incomplete = fact.problem == "image_damaged" and "premature end" in fact.reason.lower()
            findings.add(fact.problem, [Example(number, path, fact.reason)], severity=ERROR if incomplete else None)
        if fact.transparent:
            findings.add("image_transparent", [Example(number, path)])
        if fact.is_tiny:
            findings.add("image_tiny", [Example(number, path, f"{fact.width} x {fact.height} pixels")])
        suffix = os.path.splitext(path)[1].lower()
        if fact.format and suffix not in FORMATS[fact.format][1]:
            findings.add("image_extension", [Example(number, path, f"{fact.format} in '{suffix}'")])


def _check_shared(facts: dict[str, ImageFacts], rows_of: dict[str, list[Row]], findings: Findings) -> None:
    """Reports images in several rows and identical files, as errors where identity or split differ."""
    named = [path for path in facts if path in rows_of]
    identical = [paths for paths in group_by(named, lambda path: facts[path].digest or None).values() if len(paths) > 1]
    for paths in [*([path] for path in rows_of), *identical]:
        rows = [row for path in paths for row in rows_of[path]]
        if len(rows) > 1:
            identities = dict.fromkeys(f"{row.pid} in {row.split}" for row in rows)
            value = f"rows {list_some(row.number for row in rows)}: identity {list_some(identities)}"
            kinds = ("image_in_two_rows", "image_contradicted")
            if len(paths) > 1:
                value, kinds = f"same as {list_some(paths[1:])}; {value}", ("file_twice", "file_contradicted")
            findings.add(kinds[len(identities) > 1], [Example(rows[0].number, paths[0], value)])


@contextmanager
def _decoder_warnings() -> Iterator[list[str]]:
    """Collects the lines that C libraries write to standard error; libjpeg reports damaged data only there."""
    lines: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            stream.seek(0)
            lines += stream.read().decode("utf-8", "replace").splitlines()
