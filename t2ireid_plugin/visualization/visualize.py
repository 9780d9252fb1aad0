"""``--visualize``: pictures of what a model found and where it looked, and a page with all of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import ConfigError, DataError, InputError
from t2ireid_plugin.evaluation.protocols import IMAGE_QUERY_PROTOCOLS, PROTOCOLS, Embeddings
from t2ireid_plugin.evaluation.ranking import QueryScores
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.synthetic.parts import drawn_photos, part_masks
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text
from t2ireid_plugin.utils.fonts import NO_CHINESE, chinese_font, has_chinese
from t2ireid_plugin.visualization.attention import PartShare, attention_shares, photo_maps, word_relevance
from t2ireid_plugin.visualization.attention_pictures import draw_attention
from t2ireid_plugin.visualization.drawing import draw_failures, picture_name, write_pictures
from t2ireid_plugin.visualization.plots import plot_cmc, plot_similarities
from t2ireid_plugin.visualization.ranked_lists import (
    cmc_curve,
    evenly_spaced,
    ranked_lists,
    similarity_histogram,
    worst_failures,
)
from t2ireid_plugin.visualization.report import Attention, Run, Section, write_report

_MAX_RANK = 50  # of the CMC curve


class Target(NamedTuple):
    """What was tested, and what came out of it; ``n`` captions, ``m`` images."""

    name: str
    captions: Sequence[Sequence[Any]]  # [n] items of the data, ``(path, pid, …, caption, id_text, cloth_text)``
    images: Sequence[Sequence[Any]]  # [m] likewise
    embeddings: Embeddings
    scores: Mapping[str, QueryScores]  # by protocol
    identity_weight: float  # of the protocol ``both``
    drawn_root: str | Path | None = None  # data.root, if the people are drawn, so that their body parts are known
    split: str = "test"


def visualize(
    parent: str | Path, target: Target, model: T2IReIDModel, transform: TestTransform, run: Run, number: int
) -> Path:
    """Draws all there is of one target into a new folder, ``parent/visualize_<target>``, and returns the page.

    Nothing is ever overwritten: if that folder exists, it is ``visualize_<target>-2``, and so on.

    Args:
        parent: the run's folder.
        target: what was tested.
        model: that was tested.
        transform: from a photo to the model's input, as in the test.
        run: what the page tells besides.
        number: how many queries are drawn of each kind.

    Raises:
        DataError: when a photo cannot be read or a picture cannot be written.
    """
    folder = _new_folder(Path(parent), f"visualize_{target.name}")
    sections = [_draw_protocol(folder, target, protocol, number) for protocol in target.scores]
    curves = {protocol: cmc_curve(scores, _MAX_RANK) for protocol, scores in target.scores.items()}
    cmc = plot_cmc(curves)
    atomic_write(folder / "cmc.png", lambda draft: draft.write_bytes(cmc))
    attention = _draw_attention(folder, target, model, transform, number)
    notes = ["The same pictures are files in the folder of this page."]
    shown = [item for section in sections for item in (*section.examples, *section.failures)]
    texts = [text for item in shown for text in (item.query.text, *(hit.answer.text for hit in item.hits))]
    if any(map(has_chinese, texts)) and chinese_font(12) is None:
        notes.append(f"In the pictures in which words are drawn {NO_CHINESE}.")
    write_report(folder / "report.html", f"{target.name}: what the model found", run, sections, cmc, attention, notes)
    return folder / "report.html"


def _draw_protocol(folder: Path, target: Target, protocol: str, number: int) -> Section:
    """``ranked_<protocol>/…``, ``failures_<protocol>.png`` and ``similarities_<protocol>.png``."""
    comparison = PROTOCOLS[protocol].build_task(target.embeddings, target.identity_weight)
    asking = target.images if protocol in IMAGE_QUERY_PROTOCOLS else target.captions
    found = target.captions if protocol == "i2t" else target.images
    examples, failures = (
        ranked_lists(protocol, comparison, asking, found, chosen)
        for chosen in (evenly_spaced(len(asking), number), worst_failures(target.scores[protocol], number))
    )
    write_pictures(_new_folder(folder, f"ranked_{protocol}"), examples)
    draw_failures(failures, folder / f"failures_{protocol}.png")
    similarities = plot_similarities(*similarity_histogram(comparison))
    atomic_write(folder / f"similarities_{protocol}.png", lambda draft: draft.write_bytes(similarities))
    return Section(protocol, examples, failures, similarities)


def _draw_attention(
    folder: Path, target: Target, model: T2IReIDModel, transform: TestTransform, number: int
) -> Attention:
    """``attention/…`` and, of drawn people, ``attention_shares.json``."""
    try:
        pictures = _attention_pictures(folder, target, model, transform, number)
    except (InputError, ConfigError) as error:  # no grid of patches, or branches that see one pooled token
        return Attention(note=f"There are no maps: {error}.")
    if target.drawn_root is None:
        return Attention(pictures)
    try:
        shares, photos = _part_shares(target.drawn_root, target.split, model, transform)
    except DataError as error:  # drawn by another version, or changed since; the rest is as good without
        return Attention(pictures, note=f"The parts of the drawn people are not known: {error}.")
    _write_shares(folder / "attention_shares.json", shares, photos)
    return Attention(pictures, shares, photos)


def _attention_pictures(
    folder: Path, target: Target, model: T2IReIDModel, transform: TestTransform, number: int
) -> list[tuple[str, bytes]]:
    """Captions at even distances, and the files of the maps of their photos."""
    chosen = evenly_spaced(len(target.captions), number)
    if not chosen:
        return []
    items = [target.captions[i] for i in chosen]
    captions = [caption for *_, caption, _, _ in items]
    maps = photo_maps(model, [path for path, *_ in items], transform)
    words = word_relevance(model, captions, target.embeddings.images[target.embeddings.described[chosen]])
    into = _new_folder(folder, "attention")
    pictures = []
    for place, (path, pid, *_) in enumerate(items):
        picture = into / picture_name(chosen[place], pid)
        draw_attention(path, maps.photo(place), picture, words[place])
        pictures.append((captions[place], picture.read_bytes()))
    return pictures


def _part_shares(
    root: str | Path, split: str, model: T2IReIDModel, transform: TestTransform
) -> tuple[list[PartShare], int]:
    """The shares of the branches' attention on each part of the photos of a split, and the number of photos."""
    photos = list(drawn_photos(root, split))
    images = Path(root) / "CUHK-PEDES" / "imgs"
    maps = photo_maps(model, [images / photo.file_path for photo in photos], transform)
    masks = (part_masks(photo.labels) for photo in photos)
    return attention_shares(maps, masks, [photo.pid for photo in photos]), len(photos)


def _write_shares(path: Path, shares: Sequence[PartShare], photos: int) -> None:
    """As JSON, shares of 1; an interval has ``mean``, ``low`` and ``high``."""
    parts = {
        row.part: {
            "area": row.area,
            **{name: getattr(row, name)._asdict() for name in ("identity", "clothing", "difference")},
        }
        for row in shares
    }
    text = json.dumps({"photos": photos, "parts": parts}, indent=2) + "\n"
    atomic_write_text(path, text)


def _new_folder(parent: Path, name: str) -> Path:
    """Makes and returns ``parent/name``, or with the first number behind the name that makes it new."""
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise DataError(f"cannot create '{folder}' ({error.strerror})") from error
    raise AssertionError("numbers have run out")
