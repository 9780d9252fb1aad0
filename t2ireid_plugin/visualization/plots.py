"""Plots of CMC curves and of similarity histograms.

Drawn with matplotlib's objects on a canvas of their own: no window, no state shared with other users of pyplot.
matplotlib is imported only to plot.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.utils.fonts import chinese_font
from t2ireid_plugin.utils.language import language, say, use_language

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray

_GREEN, _RED, _INK = "#22a046", "#d03030", "#000000"
# Okabe and Ito's colours, chosen for colour-blind readers; further curves repeat them with other dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", _INK)
_DASHES = ("-", "--", ":", "-.")
# matplotlib's date and version by format, left out so that equal plots are equal files.
_METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
_FOLLOW_READER = """<style>svg { color: #1b1b1b; fill: currentColor }
@media (prefers-color-scheme: dark) { svg { color: #e8e8e6 } }</style>"""


def plot_file(figure: Figure, picture_format: str) -> bytes:
    """A file in the format ``png``, ``svg`` or ``pdf``."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "t2ireid"}):  # else the names in the file are random
        figure.savefig(stream, format=picture_format, metadata=_METADATA[picture_format])
    return stream.getvalue()


def plot_for_page(figure: Figure) -> bytes:
    """An SVG file without background, whose axes and text follow the colour scheme of the reader's browser."""
    figure.set_facecolor("none")
    figure.axes[0].set_facecolor("none")
    svg = plot_file(figure, "svg").decode().replace(_INK, "currentColor")
    start = svg.index("<defs>")  # text in black is written without a colour
    return (svg[:start] + _FOLLOW_READER + svg[start:]).encode()


@contextlib.contextmanager
def _language() -> Iterator[None]:
    """Within, text is drawn in DejaVu Sans and a font for Chinese, without which it is in English."""
    import matplotlib
    from matplotlib import font_manager

    families, path = ["DejaVu Sans"], getattr(chinese_font(12), "path", None) if language() == "zh" else None
    if path:
        font_manager.fontManager.addfont(path)
        families.append(font_manager.FontProperties(fname=path).get_name())
    with use_language("zh" if path else "en"), matplotlib.rc_context({"font.family": families}):
        yield


@_language()
def plot_cmc(curves: Mapping[str, Array]) -> Figure:
    """R@1 to R@k of each named curve, shares of 1 ``[k]``; 640 x 400 pixels."""
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
    axes.set(xlabel=say("rank k"), ylabel=say("queries with a match in the top k"))
    axes.legend(loc="best", frameon=False, fontsize=9)
    return figure


@_language()
def plot_similarities(positives: Array, negatives: Array) -> Figure:
    """Histograms of the similarities of matching and other pairs; 640 x 400 pixels.

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
    kinds = ((other, _RED, "--", say("different people")), (same, _GREEN, "-", say("same person")))
    for shares, colour, dashes, label in kinds:
        if shares.any():
            mean = float((shares * (edges[:-1] + edges[1:])).sum() / 2)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.35, linewidth=0)
            named = say("{label}, mean {mean:.2f}", label=label, mean=mean).replace("-", "−")
            axes.stairs(shares, edges, color=colour, linestyle=dashes, linewidth=1.4, label=named)
    used = np.flatnonzero(same + other > 1e-4 * max(same.max(), other.max()))
    axes.set_xlim(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(same))])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set(xlabel=say("cosine similarity of query and gallery entry"), ylabel=say("share of pairs"))
    overlap = say("overlap {share:.1f} %", share=100 * np.minimum(same, other).sum())
    axes.legend(loc="best", frameon=False, title=overlap)
    return figure


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.grid(color=_INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes
