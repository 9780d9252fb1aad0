"""``report.html``: a target's figures and pictures on one page that needs no network, no script and no other file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.visualization.attention import BRANCHES, Interval, PartShare
from t2ireid_plugin.visualization.drawing import (
    beyond,
    describe_failures,
    describe_list,
    fit,
    label_of,
    mark,
    score,
    short,
)
from t2ireid_plugin.visualization.html import facts, image, lines, page, table, words
from t2ireid_plugin.visualization.ranked_lists import Hit, RankedList

_HEIGHT, _WIDTH, _QUALITY = 160, 72, 80  # of a thumbnail; some 4 KB each


@dataclass(frozen=True)
class Section:
    """What one protocol gave.

    Args:
        protocol: its name.
        examples: ranked lists that nobody chose.
        failures: of `worst_failures`.
        similarities: PNG file of the histogram.
    """

    protocol: str
    examples: Sequence[RankedList]
    failures: Sequence[RankedList]
    similarities: bytes


@dataclass(frozen=True)
class Attention:
    """Where the branches look.

    Args:
        pictures: a caption and the PNG file of `draw_attention` each.
        shares: on the parts of drawn people; empty for photos.
        photos: how many photos the shares are of.
        note: why something is missing; "" if nothing is.
    """

    pictures: Sequence[tuple[str, bytes]] = ()
    shares: Sequence[PartShare] = ()
    photos: int = 0
    note: str = ""


@dataclass(frozen=True)
class Run:
    """What the figures come from.

    Args:
        metrics: of the target, by protocol, as in ``results.json``.
        datasets: counts by dataset, split and kind.
        told: names and values, such as the command and the versions.
        config: the configuration as YAML.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    datasets: Mapping[str, Mapping[str, Mapping[str, int]]]
    told: Mapping[str, str] = field(default_factory=dict)
    config: str = ""


def write_report(
    path: str | Path,
    title: str,
    run: Run,
    sections: Sequence[Section],
    cmc: bytes,
    attention: Attention,
    notes: Sequence[str] = (),
) -> None:
    """Writes the page over ``path``, whole or not at all. The same arguments give the same bytes.

    Args:
        path: in a folder that exists.
        title: of the page.
        run: what the figures come from.
        sections: one a protocol.
        cmc: PNG file of the CMC curves.
        attention: maps and shares.
        notes: sentences below the title.

    Raises:
        DataError: when a photo cannot be read or the page cannot be written.
    """
    plots = [("CMC", cmc), *((f"Similarities, {section.protocol}", section.similarities) for section in sections)]
    body = [
        f"<h1>{words(title)}</h1>",
        *(f'<p class="faint">{words(note)}</p>' for note in notes),
        "<h2>Metrics</h2>",
        _metrics_table(run.metrics),
        '<div class="plots">',
        *(f"<div><h3>{words(name)}</h3>{image(png, name)}</div>" for name, png in plots),
        "</div>",
        *map(_section, sections),
        _attention(attention),
        "<h2>The run</h2>",
        facts(run.told),
        _datasets_table(run.datasets),
        f"<details><summary>Configuration</summary><pre>{lines(run.config)}</pre></details>",
    ]
    content = page(title, "\n".join(body))
    atomic_write(Path(path), lambda draft: draft.write_bytes(content.encode()))


def _metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a protocol; the columns are those of all."""
    keys = dict.fromkeys(key for found in metrics.values() for key in found)
    shares = [key for key in keys if key.startswith("R@") or key in ("mAP", "mINP")]
    counts = [key for key in ("queries", "skipped_queries", "gallery", "identities") if key in keys]
    rows = []
    for protocol, found in metrics.items():
        intervals = found.get("interval95", {})
        cells = [_share(found.get(key), intervals.get(key)) for key in shares]
        rows.append([words(protocol), *cells, *(f"{found[key]:,}" if key in found else "" for key in counts)])
    head = ["protocol", *shares, *(key.replace("_", " ") for key in counts)]
    bounds = any("interval95" in found for found in metrics.values())
    note = "In percent" + (
        ", with 95 % intervals below: how far other test people would move a figure." if bounds else "."
    )
    return f'<p class="faint">{note}</p>{table([words(cell) for cell in head], rows)}'


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    bounds = "<small>{:.1f} to {:.1f}</small>".format(*(100 * end for end in interval)) if interval else ""
    return f"{100 * value:.2f}{bounds}"


def _datasets_table(datasets: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    rows = [(name, split, counts) for name, splits in datasets.items() for split, counts in splits.items()]
    kinds = list(dict.fromkeys(kind for *_, counts in rows for kind in counts))
    cells = [
        [words(f"{name}, {split}"), *(f"{counts.get(kind, 0):,}" for kind in kinds)] for name, split, counts in rows
    ]
    return "<h3>Datasets</h3>" + table(["dataset, split", *map(words, kinds)], cells)


def _section(section: Section) -> str:
    parts = [f"<h2>{words(section.protocol)}</h2>"]
    legend = "Green ✓ is of the query's person, red ✗ of another; the number is the cosine similarity."
    for name, lists, which in (
        ("Ranked lists", section.examples, "Queries at even distances, which nobody chose."),
        ("Worst failures", section.failures, f"{describe_failures(section.failures)}."),
    ):
        parts.append(f'<h3>{name}</h3><p class="faint">{which} {legend if lists else ""}</p>')
        parts += map(_ranked_list, lists)
    return "\n".join(parts)


def _ranked_list(item: RankedList) -> str:
    text = f'<p class="caption" dir="auto">{words(item.query.text)}</p>' if item.query.text.strip() else ""
    asked = _figure("asked", item.query.photo, label_of(item))
    extra = beyond(item)
    hits = [*item.hits, *([] if extra is None else [extra])]
    if any(not hit.answer.photo for hit in hits):
        answers = f'<div class="found">{asked}<ol>{"".join(map(_text_hit, hits))}</ol></div>'
    else:
        photos = "".join(_photo_hit(hit, "apart " if hit is extra else "") for hit in hits)
        answers = f'<div class="photos">{asked}{photos}</div>'
    return f'<div class="list">{text}<p class="faint">{words(describe_list(item))}</p>{answers}</div>'


def _kind(hit: Hit) -> str:
    return "right" if hit.correct else "wrong"


def _photo_hit(hit: Hit, classes: str) -> str:
    return _figure(classes + _kind(hit), hit.answer.photo, f"<b>{mark(hit)}</b><span>{score(hit)}</span>")


def _text_hit(hit: Hit) -> str:
    text = words(hit.answer.text)
    return f'<li class="{_kind(hit)}" dir="auto"><b>{mark(hit)}</b><span>{score(hit)}</span>{text}</li>'


def _figure(classes: str, path: str, caption: str) -> str:
    """A photo in a frame; ``caption`` is HTML."""
    stream = io.BytesIO()
    Image.fromarray(fit(path, _WIDTH, _HEIGHT)).save(stream, "JPEG", quality=_QUALITY)
    picture = image(stream.getvalue(), short(path))
    return f'<figure class="{classes}"><div>{picture}</div><figcaption>{caption}</figcaption></figure>'


def _attention(attention: Attention) -> str:
    parts = ["<h2>Attention</h2>"]
    if attention.note:
        parts.append(f'<p class="faint">{words(attention.note)}</p>')
    if attention.pictures:
        parts.append(
            '<p class="faint">Where the first attention of each branch looks: green is the even share of a patch, blue '
            "a quarter of it or less, red four times as much or more. Green words speak for the photo, red ones "
            "against it: by how much the similarity falls or rises when the word is left out.</p>"
        )
        parts.append('<div class="attention">')
        parts += [image(png, caption) for caption, png in attention.pictures]
        parts.append("</div>")
    if attention.shares:
        note = (
            f"Share of the attention on each part of {attention.photos:,} drawn photos, in percent, with 95 % "
            "intervals over people. The area is what looking everywhere equally would give; garments are upper, lower, "
            "shoes and bag together."
        )
        rows = [
            [words(row.part), f"{100 * row.area:.2f}", *map(_interval, (row.identity, row.clothing, row.difference))]
            for row in attention.shares
        ]
        head = ["part", "area", *BRANCHES, "identity − clothing"]
        parts += ["<h3>Attention on body parts</h3>", f'<p class="faint">{note}</p>', table(head, rows)]
    return "\n".join(parts)


def _interval(value: Interval) -> str:
    mean, low, high = (f"{100 * number:.2f}".replace("-", "−") for number in value)
    return f"{mean}<small>{low} to {high}</small>"
