"""What is wrong with the identities and splits of a dataset, and how its counts compare with the publishers'."""

from __future__ import annotations

from collections.abc import Sequence

from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec, Counts
from t2ireid_plugin.prepare.check.findings import WARNING, Example, Findings
from t2ireid_plugin.prepare.check.rows import Row


def check_identities(rows: Sequence[Row], findings: Findings) -> None:
    """Identities in several splits, and those with one photo."""
    people: dict[int, list[Row]] = {}
    for row in rows:
        if row.pid is not None:
            people.setdefault(row.pid, []).append(row)
    for pid, own in people.items():
        splits = [split for split in SPLITS if any(row.split == split for row in own)]
        first = own[0]
        if len(splits) > 1:
            value = f"identity {pid} in {' and '.join(splits)}"
            findings.add("identity_in_two_splits", [Example(first.number, first.path or "", value)])
        if len({row.path for row in own}) == 1:
            value = f"identity {pid} in {first.split}"
            findings.add("identity_of_one_photo", [Example(first.number, first.path or "", value)])


def check_counts(rows: Sequence[Row], spec: BenchmarkSpec, findings: Findings) -> dict[str, Counts]:
    """The size of each split, with a finding for each that is empty or other than the publishers'."""
    counts = {split: _count([row for row in rows if row.split == split]) for split in SPLITS}
    for split, ours in counts.items():
        held_out = split == "val" and spec.holds_out_val
        if not ours.images and not held_out:
            # Training and testing need theirs; a val split only chooses the checkpoint.
            findings.add("split_empty", [Example(value=split)], severity=WARNING if split == "val" else None)
        for name in differing(ours, spec, split):
            official = getattr(spec.official[split], name)
            value = f"{split}: {getattr(ours, name):,} {name}, as published {official:,}"
            findings.add("counts_differ", [Example(value=value)])
    return counts


def differing(ours: Counts, spec: BenchmarkSpec, split: str) -> list[str]:
    """Which of a split's counts are other than published."""
    official = spec.official.get(split)
    if official is None:
        return []
    return [name for name in Counts._fields if getattr(official, name) not in (None, getattr(ours, name))]


def _count(rows: Sequence[Row]) -> Counts:
    return Counts(
        images=len({row.path for row in rows} - {None}),
        ids=len({row.pid for row in rows} - {None}),
        captions=sum(len(row.captions) for row in rows),
    )
