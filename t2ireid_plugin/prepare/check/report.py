"""The result of a check: as a table to read, and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec, Counts
from t2ireid_plugin.prepare.check.files import ImageFacts
from t2ireid_plugin.prepare.check.findings import ERROR, SEVERITIES, Finding
from t2ireid_plugin.prepare.check.identities import differing
from t2ireid_plugin.prepare.check.rows import Row
from t2ireid_plugin.prepare.check.texts import TokenCounts
from t2ireid_plugin.utils.atomic_io import atomic_write

_EXAMPLE_WIDTH = 110


@dataclass(frozen=True)
class CheckReport:
    """All that a check found, and what it was found in.

    Args:
        spec: the benchmark that the folder was read as.
        annotation: the file.
        images: the folder of images.
        counts: size of each split.
        tokenizer: which one, in words.
        max_length: tokens that the model reads of a caption.
        tokens: what the tokenizer makes of the captions.
        findings: the worst first.
        rows: of the annotation, as far as they can be read.
        facts: of each image that is there, by path.
    """

    spec: BenchmarkSpec
    annotation: Path
    images: Path
    counts: dict[str, Counts]
    tokenizer: str
    max_length: int
    tokens: TokenCounts
    findings: tuple[Finding, ...]
    rows: list[Row] = field(repr=False)
    facts: dict[str, ImageFacts] = field(repr=False)

    @property
    def status(self) -> int:
        """1 when there is any error, else 0."""
        return int(any(finding.severity == ERROR for finding in self.findings))

    def finding(self, kind: str) -> Finding | None:
        """What was found of a kind; None when nothing was."""
        return next((finding for finding in self.findings if finding.kind == kind), None)

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "dataset": self.spec.name,
            "annotation": str(self.annotation),
            "status": self.status,
            "rows": len(self.rows),
            "splits": {
                split: {
                    **counts._asdict(),
                    "official": official._asdict() if (official := self.spec.official.get(split)) else None,
                }
                for split, counts in self.counts.items()
            },
            "tokenizer": {"name": self.tokenizer, "max_length": self.max_length, **self.tokens._asdict()},
            "findings": [finding.as_dict() for finding in self.findings],
        }


def table(report: CheckReport) -> str:
    """The report for people: counts beside the publishers', and a line for each kind of finding."""
    tokens = report.tokens
    lines = [
        f"{report.spec.name}: {report.annotation}, {len(report.rows):,} rows",
        f"tokenizer: {report.tokenizer}",
        f"captions: {tokens.captions:,} with {tokens.tokens:,} tokens; the longest has {tokens.longest:,}, "
        f"the model reads {report.max_length}",
        "",
        *_counts_table(report),
        "",
    ]
    if not report.findings:
        return "\n".join([*lines, "nothing found"])
    lines.append(f"{'severity':<9} {'kind':<26} {'count':>8}  first example")
    for found in report.findings:
        first = found.examples[0]
        where = [f"row {first.row}" if first.row is not None else "", first.path, first.value]
        example = _cut(": ".join(part for part in where if part))
        lines.append(f"{found.severity:<9} {found.kind:<26} {found.count:>8,}  {example}")
        if found.note:
            lines.append(f"{'':<46} {found.note}")
    totals = [sum(found.severity == severity for found in report.findings) for severity in SEVERITIES]
    return "\n".join([*lines, "", "kinds of findings: " + ", ".join(map(_total, totals, SEVERITIES))])


def write_json(report: CheckReport, path: Path) -> None:
    """Writes the report.

    Raises:
        DataError: when the file cannot be written.
    """
    # Half a character becomes \udxxx, which JSON reads back as what it was.
    text = json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n"
    atomic_write(path, lambda draft: draft.write_bytes(text.encode("utf-8", "backslashreplace")))


def _counts_table(report: CheckReport) -> list[str]:
    """A line a split; ``*`` marks what is other than published."""
    head = f"{'split':<6}" + "".join(f" {name:>9} {'official':>10}" for name in Counts._fields)
    lines = [head]
    for split in SPLITS:
        ours, official = report.counts[split], report.spec.official.get(split)
        marked = differing(ours, report.spec, split)
        cells = ""
        for name in Counts._fields:
            theirs = getattr(official, name, None)
            published = "-" if theirs is None else f"{theirs:,}"
            cells += f" {getattr(ours, name):>9,} {published + '*' * (name in marked):>10}"
        lines.append(f"{split:<6}{cells}")
    if any(differing(report.counts[split], report.spec, split) for split in SPLITS):
        lines.append("* differs from ours")
    return lines


def _total(count: int, severity: str) -> str:
    return f"{count} {severity}" + "s" * (count != 1 and severity != "info")


def _cut(text: str) -> str:
    return text if len(text) <= _EXAMPLE_WIDTH else text[: _EXAMPLE_WIDTH - 1] + "…"
