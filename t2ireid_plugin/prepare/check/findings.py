"""What a check can find: the kinds, how bad each is, and a list of findings with examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)

# An image that either side falls short of is hardly a person any more; the encoders enlarge it eight times and more.
TINY_HEIGHT, TINY_WIDTH = 32, 16
# From this share of captions on, those that are cut are more than a few outliers.
MANY_CUT = 0.05
# A caption with a larger share of unknown tokens tells the model next to nothing; a dataset with a larger share of such
# captions has the tokenizer of another language.
MOSTLY = 0.5

# By name: severity, and what one counted thing is. An error is what training stops at, or what makes a result wrong.
KINDS: dict[str, tuple[str, str]] = {
    "row_refused": (ERROR, "rows that training refuses"),
    "id_not_whole": (ERROR, "rows whose id is no whole number"),
    "caption_not_text": (ERROR, "captions that are no strings"),
    "caption_empty": (ERROR, "captions without a word"),
    "caption_not_unicode": (ERROR, "captions with half a character, which no tokenizer takes"),
    "instructions_unknown": (ERROR, "images in instructions.json that no row names"),
    "image_missing": (ERROR, "images that are not there"),
    "image_unreadable": (ERROR, "files that training cannot read as an image"),
    "image_truncated": (ERROR, "images that decode only in part"),
    "image_lost": (ERROR, "images at which the decoder crashed or hung"),
    "image_contradicted": (ERROR, "images named by rows of different identities or splits"),
    "file_contradicted": (ERROR, "files with the same bytes in different identities or splits"),
    "identity_in_two_splits": (ERROR, "identities in more than one split"),
    "split_empty": (ERROR, "splits without a row"),
    "image_damaged": (WARNING, "images of which the decoder complains"),
    "image_tiny": (WARNING, f"images lower than {TINY_HEIGHT} or narrower than {TINY_WIDTH} pixels"),
    "image_extension": (WARNING, "images of another format than their name says"),
    "image_in_two_rows": (WARNING, "images named by several rows of one identity"),
    "file_twice": (WARNING, "files with the same bytes within one identity"),
    "caption_twice_in_row": (WARNING, "rows that say the same twice"),
    "caption_of_two_identities": (WARNING, "captions that several identities have word by word"),
    "caption_mostly_unknown": (WARNING, "captions mostly unknown to the tokenizer"),
    "counts_differ": (WARNING, "counts other than the publishers'"),
    "caption_cut": (INFO, "captions longer than the model reads"),
    "caption_unknown_tokens": (INFO, "captions with tokens that the tokenizer does not know"),
    "identity_of_one_photo": (INFO, "identities with a single photo"),
    "image_unnamed": (INFO, "images in the folder that no row names"),
}


class Example(NamedTuple):
    """One thing found; what does not apply is None or empty."""

    row: int | None = None  # in the annotation, from 0
    path: str = ""  # below the folder of images
    value: str = ""


@dataclass(frozen=True)
class Finding:
    """All that was found of one kind."""

    kind: str
    severity: str
    count: int
    about: str  # what was counted
    note: str  # shares and the like, for the whole kind
    examples: tuple[Example, ...]

    def as_dict(self) -> dict[str, Any]:
        """As the JSON report has it."""
        return {**vars(self), "examples": [example._asdict() for example in self.examples]}


class Findings:
    """Collects what the checks find, kind by kind.

    Args:
        most: examples kept of a kind; the count goes on.
    """

    def __init__(self, most: int = 10) -> None:
        self._most = most
        self._found: dict[str, Finding] = {}

    def add(self, kind: str, examples: Iterable[Example], *, note: str = "", severity: str | None = None) -> None:
        """Adds what was found, the most telling first; of none at all there is no finding.

        Args:
            kind: one of `KINDS`.
            examples: all of them; each counts.
            note: shares and the like, for the whole kind.
            severity: in place of the kind's own; over several calls the worst holds.
        """
        new = list(examples)
        if not new:
            return
        usual, about = KINDS[kind]
        old = self._found.get(kind) or Finding(kind, severity or usual, 0, about, "", ())
        self._found[kind] = Finding(
            kind,
            min(old.severity, severity or usual, key=SEVERITIES.index),
            old.count + len(new),
            about,
            note or old.note,
            (*old.examples, *new)[: self._most],
        )

    def sorted(self) -> tuple[Finding, ...]:
        """The worst first, otherwise in the order of `KINDS`."""
        order = list(KINDS)
        return tuple(
            sorted(self._found.values(), key=lambda found: (SEVERITIES.index(found.severity), order.index(found.kind)))
        )
