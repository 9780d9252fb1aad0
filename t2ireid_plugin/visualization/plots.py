"""Plots of CMC curves and of similarity histograms, as PNG files in bytes.

Drawn with matplotlib's objects on a canvas of their own: no window, no state shared with other users of pyplot.
matplotlib is imported only to plot.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray

_GREEN, _RED, _GRID = "#22a046", "#d03030", "#dddddd"
# Okabe and Ito's colours, chosen for colour-blind readers; further curves repeat them with other dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", "--", ":", "-.")


def plot_cmc(curves: Mapping[str, Array]) -> bytes:
    """R@1 to R@k of each named curve, shares of 1 ``[k]``; a PNG of 640 x 400 pixels."""
    from matplotlib.ticker import PercentFormatter

    figure, axes = _figure()
    for number, (name, values) in enumerate(curves.items()):
        dashes, colour = _DASHES[number // len(_COLOURS) % len(_DASHES)], _COLOURS[number % len(_COLOURS)]
        ranks = np.arange(1, len(values) + 1)
        axes.plot(ranks, values, dashes, color=colour, marker=".", markersize=4, label=name)
    longest = max(len(values) for values in curves.values())
    lowest = min(float(values.min()) for values in curves.values())
    axes.set_xlim(0.5, longest + 0.5)
    axes.set_xticks([1, *range(5, longest + 1, 5)] if longest >= 10 else range(1, longest + 1))
    # From 0, unless all curves are so high that they would be hard to distinguish.
    axes.set_ylim(0.0 if lowest < 0.6 else np.floor(10 * lowest - 0.5) / 10, 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel="rank k", ylabel="queries with a match in the top k")
    axes.legend(loc="best", frameon=False, fontsize=9)
    return _png(figure)


def plot_similarities(positives: Array, negatives: Array) -> bytes:
    """Histograms of the similarities of matching and other pairs; a PNG of 640 x 400 pixels.

    Each is scaled to sum 1, as there are far more non-matching pairs; their overlap is the area that they share. One
    without pairs is not drawn.

    Args:
        positives: counts of matching pairs in equal parts of [-1, 1], ``[bins]``.
        negatives: counts of other pairs, likewise.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    same, other = (counts / max(counts.sum(), 1.0) for counts in (positives, negatives))
    edges = np.linspace(-1, 1, len(same) + 1)
    figure, axes = _figure()
    for shares, colour, dashes, label in ((other, _RED, "--", "different people"), (same, _GREEN, "-", "same person")):
        if shares.any():
            mean = float((shares * (edges[:-1] + edges[1:])).sum() / 2)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.35, linewidth=0)
            named = f"{label}, mean {mean:.2f}".replace("-", "−")
            axes.stairs(shares, edges, color=colour, linestyle=dashes, linewidth=1.4, label=named)
    used = np.flatnonzero(same + other > 1e-4 * max(same.max(), other.max()))
    axes.set_xlim(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(same))])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set(xlabel="cosine similarity of query and gallery entry", ylabel="share of pairs")
    axes.legend(loc="best", frameon=False, title=f"overlap {100 * np.minimum(same, other).sum():.1f} %")
    return _png(figure)


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    # Without matplotlib's version, so that equal pictures are equal files.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
