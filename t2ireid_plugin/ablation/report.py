"""A grid's table, its file for programs, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ireid_plugin.ablation.summary import METRICS, Spread, Summary
from t2ireid_plugin.engine.checkpointing import save_json
from t2ireid_plugin.evaluation.bootstrap import format_interval
from t2ireid_plugin.files import write_whole


def format_summaries(rows: Sequence[Summary]) -> str:
    """A Markdown table, metrics in percent: mean ± standard deviation over the seeds, difference from the baseline."""
    header = ["recipe", "seeds", *METRICS, *(f"{name} against the baseline" for name in METRICS), "trained", "time"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        differences = [
            format_interval(d.value, d.low, d.high, signed=True) if d else ""
            for d in ((row.differences or {}).get(name) for name in METRICS)
        ]
        lines.append(
            [
                row.row,
                str(len(row.seeds)),
                *(_cell(row.metrics[name]) for name in METRICS),
                *differences,
                f"{row.parameters['trained'] / 1e6:.2f} M",
                f"{row.seconds:.0f} s",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_report(rows: Sequence[Summary], folder: Path, about: dict[str, Any]) -> None:
    """``ablation.md``, ``ablation.json`` with ``about`` beside the rows, and ``ablation.png``."""
    table = format_summaries(rows)
    write_whole(folder / "ablation.md", lambda draft: draft.write_text(f"{table}\n", encoding="utf-8"))
    save_json({**about, "rows": [_plain(row) for row in rows]}, folder / "ablation.json")
    plot(rows, folder / "ablation.png")


def plot(rows: Sequence[Summary], file: Path) -> None:
    """A point for each seed and a bar for each mean, one panel a metric."""
    from matplotlib.figure import Figure  # slow to load, and only this needs it

    figure = Figure(figsize=(4 + 4 * len(METRICS), 1.2 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    places = range(len(rows))
    for panel, metric in zip(panels, METRICS, strict=True):
        spreads = [row.metrics[metric] for row in rows]
        panel.barh(places, [100 * spread.mean for spread in spreads], color="#b9cde0")
        for place, spread in zip(places, spreads, strict=True):
            panel.plot(
                [100 * value for value in spread.values], [place] * len(spread.values), "o", color="#24527a", ms=4
            )
        panel.set_xlabel(f"{metric}, %")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, [row.row for row in rows])
    panels[0].invert_yaxis()  # the first row on top, as in the table
    write_whole(file, lambda draft: figure.savefig(draft, dpi=120))


def _cell(spread: Spread) -> str:
    deviation = "" if spread.sd is None else f" ± {100 * spread.sd:.2f}"
    return f"{100 * spread.mean:.2f}{deviation}"


def _plain(row: Summary) -> dict[str, Any]:
    differences = {name: d._asdict() for name, d in row.differences.items()} if row.differences else None
    metrics = {name: spread._asdict() for name, spread in row.metrics.items()}
    return {**row._asdict(), "metrics": metrics, "differences": differences}
