"""The result of a check, as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec, Counts
from t2ireid_plugin.prepare.check.findings import ERROR, SEVERITIES, Finding
from t2ireid_plugin.prepare.check.image_file import ImageFacts
from t2ireid_plugin.prepare.check.rows import Row, differing
from t2ireid_plugin.prepare.check.texts import TokenCounts
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.text import text_table

_EXAMPLE_WIDTH = 110


@dataclass(frozen=True)
class CheckReport:
    """All findings of a check, and what was checked.

    Args:
        spec: the benchmark that the folder was read as.
        annotation: its annotation file.
        images: its folder of images.
        counts: size of each split.
        tokenizer: description of the tokenizer.
        max_length: tokens that the model reads of a caption.
        tokens: token counts of the captions.
        findings: the worst first.
        rows: of the annotation.
        facts: of each existing image, by path.
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
            "findings": [finding.as_dict() for finding in self.findings],
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
            self._counts_table(),
            "",
        ]
        if not self.findings:
            return "\n".join([*lines, "no problems"])
        lines.append(f"{'severity':<9} {'kind':<26} {'count':>8}  first example")
        for finding in self.findings:
            first = finding.examples[0]
            parts = (f"row {first.row}" if first.row is not None else "", first.path, first.value)
            example = _truncate(": ".join(part for part in parts if part))
            lines.append(f"{finding.severity:<9} {finding.kind:<26} {finding.count:>8,}  {example}")
            if finding.note:
                lines.append(f"{'':<46} {finding.note}")
        totals = [(sum(finding.severity == name for finding in self.findings), name) for name in SEVERITIES]
        plural = [f"{count} {name}" + "s" * (count != 1 and name != "info") for count, name in totals]
        return "\n".join([*lines, "", "kinds of findings: " + ", ".join(plural)])

    def write_json(self, path: Path) -> None:
        """Writes report.json.

        Raises:
            DataError: when the file cannot be written.
        """
        text = json.dumps(self.as_dict(), ensure_ascii=False, indent=2) + "\n"
        # Python represents file names that are not UTF-8 by lone surrogates, which cannot be encoded.
        atomic_write(path, lambda draft: draft.write_bytes(text.encode("utf-8", "backslashreplace")))

    def _counts_table(self) -> str:
        header = ["split", *(cell for name in Counts._fields for cell in (name, "official"))]
        rows, mark = [], ""
        for split in SPLITS:
            ours, official = self.counts[split], self.spec.official.get(split)
            row = [split]
            for name in Counts._fields:
                published = getattr(official, name, None)
                star = "*" if name in differing(ours, self.spec, split) else ""
                row += [f"{getattr(ours, name):,}", "-" if published is None else f"{published:,}{star}"]
                mark = mark or star
            rows.append(row)
        return text_table(header, rows) + ("\n* differs from ours" if mark else "")


def _truncate(text: str) -> str:
    return text if len(text) <= _EXAMPLE_WIDTH else text[: _EXAMPLE_WIDTH - 1] + "…"
