"""Kinds of problems, the collected findings with examples, and the report as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from t2ireid_plugin.data.benchmarks import BenchmarkSpec, Counts
from t2ireid_plugin.errors import printable
from t2ireid_plugin.utils.text import text_table

if TYPE_CHECKING:
    from t2ireid_plugin.modeling.encoders.tokenizer import TokenCounts
    from t2ireid_plugin.prepare.check.images import ImageFacts
    from t2ireid_plugin.prepare.check.rows import Row

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)

MAX_EXAMPLES = 10  # of each kind
# Smaller images hardly show a person; the encoders enlarge them eight times and more.
MIN_HEIGHT, MIN_WIDTH = 32, 16

# Severity and description by kind. An error is something that training refuses or that falsifies results.
KINDS: dict[str, tuple[str, str]] = {
    "row_refused": (ERROR, "rows that training refuses"),
    "instructions_unknown": (ERROR, "images in instructions.json without a row"),
    "image_missing": (ERROR, "missing images"),
    "image_unreadable": (ERROR, "files that training cannot read as an image"),
    "image_truncated": (ERROR, "truncated images"),
    "image_contradicted": (ERROR, "images in rows of different identities or splits"),
    "file_contradicted": (ERROR, "identical files in different identities or splits"),
    "identity_in_two_splits": (ERROR, "identities in more than one split"),
    "split_empty": (WARNING, "splits without a row"),
    "image_damaged": (WARNING, "images damaged inside"),
    "image_transparent": (WARNING, "images with transparent pixels, which are read as white"),
    "image_tiny": (WARNING, f"images lower than {MIN_HEIGHT} or narrower than {MIN_WIDTH} pixels"),
    "image_extension": (WARNING, "images whose format differs from their file name"),
    "image_in_two_rows": (WARNING, "images in several rows of one identity"),
    "file_twice": (WARNING, "identical files within one identity"),
    "caption_twice_in_row": (WARNING, "rows with the same caption twice"),
    "caption_of_two_identities": (WARNING, "captions shared by several identities"),
    "caption_other_script": (WARNING, "captions in another script than most"),
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


@dataclass
class Finding:
    """All instances of one kind of problem."""

    kind: str
    severity: str
    count: int
    about: str  # description of the kind
    note: str = ""  # shares and the like, for all instances together
    examples: tuple[Example, ...] = ()


class Findings:
    """Collects instances of problems by kind; all are counted, and a few kept as examples."""

    def __init__(self) -> None:
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
        severity = severity or default
        finding = self._findings.setdefault(kind, Finding(kind, severity, 0, about))
        finding.severity = min(finding.severity, severity, key=SEVERITIES.index)
        finding.count += len(new)
        finding.note = note or finding.note
        finding.examples = (*finding.examples, *new)[:MAX_EXAMPLES]

    def sorted(self) -> list[Finding]:
        """All findings, the worst first, then in the order of `KINDS`."""
        findings = (self._findings[kind] for kind in KINDS if kind in self._findings)
        return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def shorten(text: str, width: int = 120) -> str:
    """A text on one line of limited length, without control characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def list_some(values: Iterable[object], limit: int = 4) -> str:
    """The first values, and the number of the others."""
    texts = list(map(str, values))
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


@dataclass(frozen=True)
class CheckReport:
    """All findings of a check, and what was checked."""

    spec: BenchmarkSpec
    annotation: Path  # the file
    images: Path  # the folder
    counts: dict[str, Counts]  # by split
    tokenizer: str  # a description
    max_length: int  # tokens that the model reads of a caption
    tokens: TokenCounts
    findings: list[Finding]  # the worst first
    rows: list[Row] = field(repr=False)
    facts: dict[str, ImageFacts] = field(repr=False)  # of each existing image, by path

    @property
    def status(self) -> int:
        """1 if there is an error, else 0."""
        return int(any(finding.severity == ERROR for finding in self.findings))

    def finding(self, kind: str) -> Finding | None:
        """The finding of a kind, if any."""
        return next((finding for finding in self.findings if finding.kind == kind), None)

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        official = self.spec.official
        splits = {
            split: {**counts._asdict(), "official": official[split]._asdict() if split in official else None}
            for split, counts in self.counts.items()
        }
        return {
            "dataset": self.spec.name,
            "annotation": str(self.annotation),
            "status": self.status,
            "rows": len(self.rows),
            "splits": splits,
            "tokenizer": {"name": self.tokenizer, "max_length": self.max_length, **self.tokens._asdict()},
            "findings": [
                {**vars(finding), "examples": [example._asdict() for example in finding.examples]}
                for finding in self.findings
            ],
        }

    def table(self) -> str:
        """The report for the console: counts beside the publishers', and a line per kind of finding."""
        tokens = self.tokens
        lines = [
            f"{self.spec.name}: {self.annotation}, {len(self.rows):,} rows",
            f"tokenizer: {self.tokenizer}",
            f"captions: {tokens.captions:,} with {tokens.tokens:,} tokens; the longest has {tokens.longest:,}, "
            f"the model reads {self.max_length}",
            "",
            self.spec.counts_table(self.counts),
            "",
        ]
        if not self.findings:
            return "\n".join([*lines, "no problems"])
        rows = []
        for finding in self.findings:
            first = finding.examples[0]
            parts = (f"row {first.row}" if first.row is not None else "", first.path, first.value)
            example = shorten(": ".join(part for part in parts if part), 110)
            rows.append([finding.severity, finding.kind, f"{finding.count:>8,}", example])
            if finding.note:
                rows.append(["", "", "", finding.note])
        lines.append(text_table(["severity", "kind", "   count", "first example"], rows, text_columns=4))
        totals = [(sum(finding.severity == name for finding in self.findings), name) for name in SEVERITIES]
        plural = [f"{count} {name}" + "s" * (count != 1 and name != "info") for count, name in totals]
        return "\n".join([*lines, "", "kinds of findings: " + ", ".join(plural)])
