"""Report of a grid: Markdown tables, a JSON file and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2ireid_plugin.ablation.summary import METRICS, Row
from t2ireid_plugin.engine.training_state import save_json
from t2ireid_plugin.evaluation.bootstrap import format_interval
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.evaluation.result import CHOSEN_ON_TEST
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text
from t2ireid_plugin.utils.text import markdown_table


def format_summaries(rows: Sequence[Row]) -> str:
    """Main table as Markdown, in percent: mean ± standard deviation over the seeds, difference from the baseline."""
    header = ["recipe", "seeds", *METRICS, *(f"{name} against the baseline" for name in METRICS), "trained", "time"]
    lines = []
    for row in rows:
        differences = [""] * len(METRICS)
        if row["differences"]:
            each = (row["differences"][name] for name in METRICS)
            differences = [format_interval(d["b"] - d["a"], d["low"], d["high"], signed=True) for d in each]
        metrics = (_cell(row["metrics"][name]) for name in METRICS)
        size, time = f"{row['parameters']['trained'] / 1e6:.2f} M", f"{row['seconds']:.0f} s"
        name = row["row"] if row["protocol"] == OFFICIAL else f"{row['row']} ({row['protocol']})"
        lines.append([name, str(len(row["seeds"])), *metrics, *differences, size, time])
    return markdown_table(header, lines)


def format_figures(rows: Sequence[Row]) -> str:
    """Further table as Markdown, in percent: mean ± standard deviation of each figure over the seeds."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("row", "seeds")]
    lines = []
    for row in rows:
        cells = (_cell(row[name]) if name in row else "" for name in names)
        lines.append([row["row"], str(len(row["seeds"])), *cells])
    return markdown_table(["recipe", "seeds", *names], lines)


def write_report(rows: Sequence[Row], others: Mapping[str, Sequence[Row]], folder: Path, about: dict[str, Any]) -> str:
    """Writes ``ablation.md``, ``ablation.json`` and ``ablation.png``, and returns the text of the first.

    ``about`` names in ``chosen_on_test`` the rows whose epoch the test set chose. Each of ``others`` becomes a key of
    the JSON file, beside the keys of ``about``, and a further table if it has rows.
    """
    tables = [format_summaries(rows), *(format_figures(further) for further in others.values() if further)]
    text = "\n\n".join([*tables, *(f"{row}: {CHOSEN_ON_TEST}" for row in about["chosen_on_test"])])
    atomic_write_text(folder / "ablation.md", f"{text}\n")
    save_json({**about, "rows": rows, **others}, folder / "ablation.json")
    plot(rows, folder / "ablation.png")
    return text


def plot(rows: Sequence[Row], file: Path) -> None:
    """Plots a point per seed and a bar per mean, in one panel per metric."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(4 + 4 * len(METRICS), 1.2 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    places = range(len(rows))
    for panel, metric in zip(panels, METRICS, strict=True):
        spreads = [row["metrics"][metric] for row in rows]
        panel.barh(places, [100 * spread["mean"] for spread in spreads], color="#b9cde0")
        for place, spread in zip(places, spreads, strict=True):
            values = [100 * value for value in spread["values"]]
            panel.plot(values, [place] * len(values), "o", color="#24527a", ms=4)
        panel.set_xlabel(f"{metric}, %")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, [row["row"] for row in rows])
    panels[0].invert_yaxis()  # the first row on top, as in the table
    atomic_write(file, lambda draft: figure.savefig(draft, dpi=120))


def _cell(spread: Mapping[str, Any]) -> str:
    deviation = "" if spread["sd"] is None else f" ± {100 * spread['sd']:.2f}"
    return f"{100 * spread['mean']:.2f}{deviation}"
