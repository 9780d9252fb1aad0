"""``report.html``: a target's metrics and pictures on one self-contained page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from t2ireid_plugin.evaluation.protocols import OFFICIAL, SENTENCES
from t2ireid_plugin.evaluation.result import CHOSEN_ON_TEST
from t2ireid_plugin.utils.atomic_io import atomic_write_text
from t2ireid_plugin.utils.language import say
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
_ATTENTION_LEGEND = (
    "The first attention of each branch: a patch with an even share is not tinted, blue is less, down to a quarter of "
    "it, orange more, up to four times as much. Green words raise the caption's similarity with the photo, red ones "
    "lower it, measured by leaving the word out."
)
_SHARES_LEGEND = (
    "Share of the attention on each part of {photos:,} drawn photos, in percent, with 95 % intervals over people. The "
    "area is the share that uniform attention would give; garments are upper, lower, shoes and bag together."
)


class Run(NamedTuple):
    """The run behind the results."""

    metrics: Mapping[str, Mapping[str, Any]]  # of the target, by protocol, as in ``results.json``
    datasets: Mapping[str, Mapping[str, Mapping[str, int]]]  # counts by dataset, split and kind
    facts: Mapping[str, str] = {}  # names and values, such as the command and the versions
    config: str = ""  # the configuration as YAML
    name: str = ""  # of its folder
    date: str = ""  # of the results


class Section(NamedTuple):
    """A part of the page, with an entry in its table of contents."""

    anchor: str  # its address on the page, without the ``#``
    title: str  # text
    content: str  # HTML


def write_report(
    path: str | Path, title: str, run: Run, first: str, cmc: bytes, sections: Sequence[Section], notes: Sequence[str]
) -> None:
    """Writes the page over ``path``, atomically. The same arguments give the same bytes.

    Args:
        path: in an existing folder.
        title: of the page.
        run: the run behind the results.
        first: HTML of `examples_section`, above everything else.
        cmc: the CMC curves, of `plot_for_page`.
        sections: of `protocol_section` and `attention_section`.
        notes: sentences below the title.

    Raises:
        DataError: when the page cannot be written.
    """
    config = f"<summary>{say('Configuration')}</summary><pre>{escape_lines(run.config)}</pre>"
    about = [definitions(run.facts), _datasets_table(run.datasets), f"<details>{config}</details>"]
    sections = [
        Section("metrics", say("Metrics"), _metrics_table(run.metrics) + image(cmc, "CMC")),
        *sections,
        Section("run", say("The run"), "\n".join(about)),
    ]
    links = (f'<a href="#{escape_line(part.anchor)}">{escape_line(part.title)}</a>' for part in sections)
    body = [f"<h1>{escape_line(title)}</h1>", _summary(run.metrics), f"<nav>{' '.join(links)}</nav>"]
    body += [*map(_faint, notes), first]
    for part in sections:
        body += [f'<h2 id="{escape_line(part.anchor)}">{escape_line(part.title)}</h2>', part.content]
    atomic_write_text(Path(path), page(title, "\n".join(body)))


def examples_section(examples: Mapping[str, Sequence[RankedList]]) -> str:
    """HTML of ranked lists with thumbnails, each group below its heading, see `example_lists`.

    Raises:
        DataError: when a photo cannot be read.
    """
    parts = []
    for heading, lists in examples.items():
        parts += [f"<h3>{escape_line(heading)}</h3>", *map(_ranked_list, lists)]
    return "\n".join([_faint(say(_LEGEND)), *parts] if parts else [])


def protocol_section(
    protocol: str,
    examples: Mapping[str, Sequence[RankedList]],
    failures: Sequence[RankedList],
    similarities: bytes | str,
) -> Section:
    """A protocol in a sentence, its similarities and its ranked lists with thumbnails.

    Args:
        protocol: its name.
        examples: of `example_lists`.
        failures: the ranked lists of `worst_failures`.
        similarities: the plot, of `plot_for_page`, or the name of another protocol that has the same.

    Raises:
        DataError: when a photo cannot be read.
    """
    parts = [f"<p>{escape_line(say(SENTENCES[protocol]))}</p>" if protocol in SENTENCES else ""]
    if isinstance(similarities, bytes):
        parts.append(image(similarities, say("Similarities, {protocol}", protocol=protocol)))
    else:
        parts.append(_faint(say("The similarities are those of {protocol}, plotted above.", protocol=similarities)))
    parts += [examples_section(examples), f"<h3>{describe_failures(failures)}</h3>"]
    return Section(protocol, protocol, "\n".join([*parts, *map(_ranked_list, failures)]))


def attention_section(
    pictures: Sequence[tuple[str, bytes]] = (),
    shares: Mapping[str, Mapping[str, Any]] | None = None,
    photos: int = 0,
    note: str = "",
) -> Section:
    """The attention.

    Args:
        pictures: captions, and PNG files of `draw_attention`.
        shares: of `attention_shares`, for drawn people.
        photos: number of photos behind the shares.
        note: why something is missing.
    """
    parts = [_faint(note)]
    if pictures:
        images = "\n".join(image(png, caption) for caption, png in pictures)
        parts += [_faint(say(_ATTENTION_LEGEND)), f'<div class="attention">{images}</div>']
    if shares:
        header = [say(name) for name in ("part", "area", *BRANCHES, "identity − clothing")]
        rows = [[escape_line(say(part)), *map(_share_cell, share.values())] for part, share in shares.items()]
        heading = f"<h3>{say('Attention on body parts')}</h3>"
        parts += [heading, _faint(say(_SHARES_LEGEND, photos=photos)), table(header, rows)]
    return Section("attention", say("Attention"), "\n".join(parts))


def _summary(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """R@1 of the official protocol in a sentence."""
    row = metrics[OFFICIAL]
    sentence = "For {share:.1f} % of {queries:,} sentences, the first of {gallery:,} photos shows the right person."
    return f"<p>{say(sentence, share=100 * row['R@1'], queries=row['valid_queries'], gallery=row['gallery'])}</p>"


def _metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per protocol, with the columns of all."""
    keys = dict.fromkeys(key for row in metrics.values() for key in row)
    shares = [key for key in keys if key.startswith("R@") or key in ("mAP", "mINP")]
    names = ("queries", "skipped_queries", "gallery", "identities")
    counts = [name for name in names if any(row.get(name) for row in metrics.values())]
    rows = []
    for protocol, row in metrics.items():
        intervals = row.get("interval95", {})
        cells = [_percent(row.get(key), intervals.get(key)) for key in shares]
        rows.append([escape_line(protocol), *cells, *(f"{row[key]:,}" if key in row else "" for key in counts)])
    header = [say("protocol"), *shares, *(say(key.replace("_", " ")) for key in counts)]
    bounded = any("interval95" in row for row in metrics.values())
    note = say("In percent, with 95 % bootstrap intervals over test people.") if bounded else say("In percent.")
    on_test = say(CHOSEN_ON_TEST) if any("epoch_chosen_on" in row for row in metrics.values()) else ""
    return _faint(note) + _faint(on_test) + table([escape_line(cell) for cell in header], rows)


def _datasets_table(datasets: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    rows = [(f"{name}, {split}", counts) for name, splits in datasets.items() for split, counts in splits.items()]
    kinds = list(dict.fromkeys(kind for _, counts in rows for kind in counts))
    cells = [[escape_line(name), *(f"{counts.get(kind, 0):,}" for kind in kinds)] for name, counts in rows]
    return f"<h3>{say('Datasets')}</h3>" + table([say("dataset, split"), *(escape_line(say(k)) for k in kinds)], cells)


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
    ends = [f"{100 * end:.2f}" for end in interval or ()]
    bounds = f"<small>{say('{low} to {high}', low=ends[0], high=ends[1])}</small>" if ends else ""
    return f"{100 * share:.2f}{bounds}".replace("-", "−")
