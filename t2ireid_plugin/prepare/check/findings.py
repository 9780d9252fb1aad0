"""Kinds of problems, their severity, and the collected findings with examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)

# Smaller images hardly show a person; the encoders enlarge them eight times and more.
MIN_HEIGHT, MIN_WIDTH = 32, 16

# Severity and description by kind. An error is something that training refuses or that falsifies results.
KINDS: dict[str, tuple[str, str]] = {
    "row_refused": (ERROR, "rows that training refuses"),
    "id_not_whole": (ERROR, "rows whose id is not an integer"),
    "caption_not_text": (ERROR, "captions that are not strings"),
    "caption_empty": (ERROR, "empty captions"),
    "instructions_unknown": (ERROR, "images in instructions.json without a row"),
    "image_missing": (ERROR, "missing images"),
    "image_unreadable": (ERROR, "files that training cannot read as an image"),
    "image_truncated": (ERROR, "truncated images"),
    "image_contradicted": (ERROR, "images in rows of different identities or splits"),
    "file_contradicted": (ERROR, "identical files in different identities or splits"),
    "identity_in_two_splits": (ERROR, "identities in more than one split"),
    "split_empty": (ERROR, "splits without a row"),
    "image_damaged": (WARNING, "images with decoder warnings"),
    "image_tiny": (WARNING, f"images lower than {MIN_HEIGHT} or narrower than {MIN_WIDTH} pixels"),
    "image_extension": (WARNING, "images whose format differs from their file name"),
    "image_in_two_rows": (WARNING, "images in several rows of one identity"),
    "file_twice": (WARNING, "identical files within one identity"),
    "caption_twice_in_row": (WARNING, "rows with the same caption twice"),
    "caption_of_two_identities": (WARNING, "captions shared by several identities"),
    "caption_mostly_unknown": (WARNING, "captions mostly of unknown tokens"),
    "counts_differ": (WARNING, "counts that differ from the publishers'"),
    "caption_cut": (INFO, "captions longer than the model reads"),
    "caption_unknown_tokens": (INFO, "captions with unknown tokens"),
    "identity_of_one_photo": (INFO, "identities with a single photo"),
    "image_unnamed": (INFO, "images in the folder without a row"),
}


class Example(NamedTuple):
    """One instance of a problem; fields that do not apply are None or empty."""

    row: int | None = None  # in the annotation, from 0
    path: str = ""  # relative to the folder of images
    value: str = ""


@dataclass(frozen=True)
class Finding:
    """All instances of one kind of problem."""

    kind: str
    severity: str
    count: int
    about: str  # description of the kind
    note: str  # shares and the like, for all instances together
    examples: tuple[Example, ...]

    def as_dict(self) -> dict[str, Any]:
        """The finding as in report.json."""
        return {**vars(self), "examples": [example._asdict() for example in self.examples]}


class Findings:
    """Collects instances of problems by kind.

    Args:
        max_examples: examples kept per kind; all instances are counted.
    """

    def __init__(self, max_examples: int = 10) -> None:
        self._max_examples = max_examples
        self._findings: dict[str, Finding] = {}

    def add(self, kind: str, examples: Iterable[Example], *, note: str = "", severity: str | None = None) -> None:
        """Adds instances of a kind, the most important first.

        Args:
            kind: one of `KINDS`.
            examples: all instances; without any there is no finding.
            note: shares and the like, for all instances together.
            severity: overrides that of the kind; of several calls the worst counts.
        """
        new = list(examples)
        if not new:
            return
        default, about = KINDS[kind]
        old = self._findings.get(kind) or Finding(kind, severity or default, 0, about, "", ())
        self._findings[kind] = Finding(
            kind,
            min(old.severity, severity or default, key=SEVERITIES.index),
            old.count + len(new),
            about,
            note or old.note,
            (*old.examples, *new)[: self._max_examples],
        )

    def sorted(self) -> tuple[Finding, ...]:
        """All findings, the worst first, then in the order of `KINDS`."""
        findings = (self._findings[kind] for kind in KINDS if kind in self._findings)
        return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
