"""``report.html``: a target's metrics and pictures on one self-contained page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.utils.atomic_io import atomic_write_text
from t2ireid_plugin.visualization.attention import BRANCHES
from t2ireid_plugin.visualization.drawing import (
    describe_failures,
    describe_list,
    fit,
    format_score,
    mark,
    photo_label,
    short_path,
)
from t2ireid_plugin.visualization.html import definitions, escape_line, escape_lines, image, page, table
from t2ireid_plugin.visualization.ranked_lists import Hit, RankedList

_HEIGHT, _WIDTH, _QUALITY = 160, 72, 80  # of a thumbnail; about 4 KB each
_LEGEND = (
    "The photo in the grey frame belongs to the query; the answers follow, best first. Green ✓ is the query's person, "
    "red ✗ another person; the number is the cosine similarity."
)


class Run(NamedTuple):
    """The run behind the results."""

    metrics: Mapping[str, Mapping[str, Any]]  # of the target, by protocol, as in ``results.json``
    datasets: Mapping[str, Mapping[str, Mapping[str, int]]]  # counts by dataset, split and kind
    facts: Mapping[str, str] = {}  # names and values, such as the command and the versions
    config: str = ""  # the configuration as YAML


def write_report(
    path: str | Path, title: str, run: Run, first: str, cmc: bytes, sections: Sequence[str], notes: Sequence[str]
) -> None:
    """Writes the page over ``path``, atomically. The same arguments give the same bytes.

    Args:
        path: in an existing folder.
        title: of the page.
        run: the run behind the results.
        first: HTML of `examples_section`, above everything else.
        cmc: PNG file of the CMC curves.
        sections: HTML of `protocol_section` and `attention_section`.
        notes: sentences below the title.

    Raises:
        DataError: when the page cannot be written.
    """
    body = [
        f"<h1>{escape_line(title)}</h1>",
        _summary(run.metrics),
        *map(_faint, notes),
        first,
        "<h2>Metrics</h2>",
        _metrics_table(run.metrics),
        image(cmc, "CMC"),
        *sections,
        "<h2>The run</h2>",
        definitions(run.facts),
        _datasets_table(run.datasets),
        f"<details><summary>Configuration</summary><pre>{escape_lines(run.config)}</pre></details>",
    ]
    atomic_write_text(Path(path), page(title, "\n".join(body)))


def examples_section(examples: Mapping[str, Sequence[RankedList]]) -> str:
    """HTML of ranked lists with thumbnails, each group below its heading, see `example_lists`.

    Raises:
        DataError: when a photo cannot be read.
    """
    parts = []
    for heading, lists in examples.items():
        parts += [f"<h3>{escape_line(heading)}</h3>", *map(_ranked_list, lists)]
    return "\n".join([_faint(_LEGEND), *parts] if parts else [])


def protocol_section(
    protocol: str, examples: Mapping[str, Sequence[RankedList]], failures: Sequence[RankedList], similarities: bytes
) -> str:
    """HTML of a protocol's similarities (a PNG file), and its ranked lists with thumbnails.

    Raises:
        DataError: when a photo cannot be read.
    """
    parts = [f"<h2>{escape_line(protocol)}</h2>", image(similarities, f"Similarities, {protocol}")]
    parts += [examples_section(examples), "<h3>Worst failures</h3>", _faint(f"{describe_failures(failures)}.")]
    return "\n".join([*parts, *map(_ranked_list, failures)])


def attention_section(
    pictures: Sequence[tuple[str, bytes]] = (),
    shares: Mapping[str, Mapping[str, Any]] | None = None,
    photos: int = 0,
    note: str = "",
) -> str:
    """HTML of the attention.

    Args:
        pictures: captions, and PNG files of `draw_attention`.
        shares: of `attention_shares`, for drawn people.
        photos: number of photos behind the shares.
        note: why something is missing.
    """
    parts = ["<h2>Attention</h2>", _faint(note)]
    if pictures:
        legend = (
            "The first attention of each branch: green is the even share of a patch, blue a quarter "
            "of it or less, red four times as much or more. Green words raise the caption's similarity with the "
            "photo, red ones lower it, measured by leaving the word out."
        )
        images = "\n".join(image(png, caption) for caption, png in pictures)
        parts += [_faint(legend), f'<div class="attention">{images}</div>']
    if shares:
        legend = (
            f"Share of the attention on each part of {photos:,} drawn photos, in percent, with 95 % "
            "intervals over people. The area is the share that uniform attention would give; garments are upper, "
            "lower, shoes and bag together."
        )
        header = ["part", "area", *BRANCHES, "identity − clothing"]
        rows = [[escape_line(part), *map(_share_cell, share.values())] for part, share in shares.items()]
        parts += ["<h3>Attention on body parts</h3>", _faint(legend), table(header, rows)]
    return "\n".join(parts)


def _summary(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """R@1 of the official protocol in a sentence."""
    row = metrics[OFFICIAL]
    share = f"{100 * row['R@1']:.1f} % of {row['valid_queries']:,} sentences"
    return f"<p>For {share}, the first of {row['gallery']:,} photos shows the right person.</p>"


def _metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per protocol, with the columns of all."""
    keys = dict.fromkeys(key for row in metrics.values() for key in row)
    shares = [key for key in keys if key.startswith("R@") or key in ("mAP", "mINP")]
    counts = [key for key in ("queries", "skipped_queries", "gallery", "identities") if key in keys]
    rows = []
    for protocol, row in metrics.items():
        intervals = row.get("interval95", {})
        cells = [_percent(row.get(key), intervals.get(key)) for key in shares]
        rows.append([escape_line(protocol), *cells, *(f"{row[key]:,}" if key in row else "" for key in counts)])
    header = ["protocol", *shares, *(key.replace("_", " ") for key in counts)]
    bounded = any("interval95" in row for row in metrics.values())
    note = "In percent" + (", with 95 % bootstrap intervals over test people below." if bounded else ".")
    return _faint(note) + table([escape_line(cell) for cell in header], rows)


def _datasets_table(datasets: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    rows = [(f"{name}, {split}", counts) for name, splits in datasets.items() for split, counts in splits.items()]
    kinds = list(dict.fromkeys(kind for _, counts in rows for kind in counts))
    cells = [[escape_line(name), *(f"{counts.get(kind, 0):,}" for kind in kinds)] for name, counts in rows]
    return "<h3>Datasets</h3>" + table(["dataset, split", *map(escape_line, kinds)], cells)


def _ranked_list(item: RankedList) -> str:
    text = f'<p class="caption" dir="auto">{escape_line(item.text)}</p>' if item.text.strip() else ""
    query = _figure("query", item.photo, photo_label(item))
    hits = "".join([*map(_hit, item.hits), *(_hit(hit, "beyond ") for hit in item.beyond)])
    if any(not hit.photo for hit in item.hits):
        ranking = f'<div class="texts">{query}<ol>{hits}</ol></div>'
    else:
        ranking = f'<div class="photos">{query}{hits}</div>'
    return f'<div class="list">{text}{_faint(describe_list(item))}{ranking}</div>'


def _hit(hit: Hit, classes: str = "") -> str:
    """A retrieved photo as a figure, a text as a list item."""
    colour, rank = "right" if hit.correct else "wrong", f"<b>{mark(hit)}</b><span>{format_score(hit)}</span>"
    if hit.photo:
        return _figure(f"{classes}{colour}", hit.photo, rank)
    return f'<li class="{colour}" dir="auto">{rank}{escape_line(hit.text)}</li>'


def _figure(classes: str, path: str, caption: str) -> str:
    """A photo in a frame; ``caption`` is HTML."""
    stream = io.BytesIO()
    Image.fromarray(fit(path, _WIDTH, _HEIGHT)).save(stream, "JPEG", quality=_QUALITY)
    picture = image(stream.getvalue(), short_path(path))
    return f'<figure class="{classes}"><div>{picture}</div><figcaption>{caption}</figcaption></figure>'


def _faint(text: str) -> str:
    """A paragraph in small print; none for an empty text."""
    return f'<p class="faint">{escape_line(text)}</p>' if text else ""


def _share_cell(share: float | Mapping[str, float]) -> str:
    if isinstance(share, float):
        return _percent(share, None)
    return _percent(share["mean"], (share["low"], share["high"]))


def _percent(share: float | None, interval: Sequence[float] | None) -> str:
    """A share of 1 in percent, with its interval below if it has one."""
    if share is None:
        return ""
    bounds = "<small>{:.2f} to {:.2f}</small>".format(*(100 * end for end in interval)) if interval else ""
    return f"{100 * share:.2f}{bounds}".replace("-", "−")
