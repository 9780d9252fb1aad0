"""``--visualize``: pictures of a target's results and of the model's attention, and a page with all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import ConfigError, DataError, InputError
from t2ireid_plugin.evaluation.protocols import IMAGE_QUERY_PROTOCOLS, OFFICIAL
from t2ireid_plugin.evaluation.result import RetrievalResult
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.synthetic.folder import FOLDER
from t2ireid_plugin.synthetic.parts import drawn_photos, part_masks
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text
from t2ireid_plugin.utils.fonts import NO_CHINESE, chinese_font, has_chinese
from t2ireid_plugin.utils.language import language, say
from t2ireid_plugin.visualization.attention import attention_shares, photo_maps, word_relevance
from t2ireid_plugin.visualization.attention_pictures import draw_attention
from t2ireid_plugin.visualization.drawing import describe_failures, draw_ranked_lists, picture_name
from t2ireid_plugin.visualization.plots import plot_cmc, plot_file, plot_for_page, plot_similarities
from t2ireid_plugin.visualization.ranked_lists import (
    Items,
    RankedList,
    evenly_spaced,
    example_lists,
    ranked_lists,
    similarity_histogram,
    worst_failures,
)
from t2ireid_plugin.visualization.report import (
    Run,
    Section,
    attention_section,
    examples_section,
    protocol_section,
    write_report,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_RANK = 50  # of the CMC curve, which ends at the size of a smaller gallery


class Target(NamedTuple):
    """A test target with its results; ``n`` captions, ``m`` images."""

    name: str
    captions: Items  # [n]
    images: Items  # [m]
    results: Sequence[RetrievalResult]  # one per protocol, with their tasks
    drawn_root: str | Path | None = None  # data.root, if the people are drawn, so that their body parts are known
    split: str = "test"


def visualize(
    parent: str | Path,
    target: Target,
    model: T2IReIDModel,
    transform: TestTransform,
    run: Run,
    number: int,
    picture_format: str = "png",
) -> Path:
    """Draws all pictures of one target into a new folder, ``parent/visualize_<target>``, and returns the page.

    Never overwrites anything: if that folder exists, the new one is ``visualize_<target>-2``, and so on.

    Args:
        parent: the run's folder.
        target: the target and its results.
        model: the tested model.
        transform: from a photo to the model's input, as in the test.
        run: further content of the page.
        number: of queries to draw of each kind.
        picture_format: of the plots, see `plot_file`.

    Raises:
        DataError: when a photo cannot be read or a picture cannot be written.
    """
    folder = _new_folder(Path(parent), f"visualize_{target.name}")
    plots = _Plots(folder, picture_format)
    curves = {each.protocol: each.cmc(min(_MAX_RANK, each.metrics["gallery"])) for each in target.results}
    cmc = plots.add("cmc", plot_cmc(curves))
    first, sections = "", []
    for result in target.results:
        examples, failures = _draw_lists(folder, target, result, number)
        if result.protocol == OFFICIAL:
            first, examples = examples_section(examples), {}
        similarities = plots.similarities(result)
        sections.append(protocol_section(result.protocol, examples, failures, similarities))
    sections.append(_draw_attention(folder, target, model, transform, number))
    notes = [say("The same pictures are files in the folder of this page.")]
    chinese = language() == "zh" or any(has_chinese(caption) for *_, caption, _, _ in target.captions)
    if chinese and chinese_font(12) is None:
        notes.append(f"Pictures with text: {NO_CHINESE}.")
    title = " · ".join(filter(None, (run.name, target.name, run.date)))
    write_report(folder / "report.html", title, run, first, cmc, sections, notes)
    return folder / "report.html"


class _Plots:
    """Writes plots into a folder, each once, and returns them for the page."""

    def __init__(self, folder: Path, picture_format: str) -> None:
        self.folder, self.format = folder, picture_format
        self.shares: dict[str, npt.NDArray] = {}  # of the pairs of each kind, by protocol, [2, bins]

    def add(self, name: str, figure: Figure) -> bytes:
        """Writes ``<name>.<format>``."""
        content = plot_file(figure, self.format)
        atomic_write(self.folder / f"{name}.{self.format}", lambda draft: draft.write_bytes(content))
        return plot_for_page(figure)

    def similarities(self, result: RetrievalResult) -> bytes | str:
        """Plots a protocol's similarities; returns the name of the protocol that has had the same, if there is one."""
        assert result.task is not None
        counts = np.stack(similarity_histogram(result.task))
        shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
        for protocol, others in self.shares.items():
            # i2t has the pairs of t2i; rounding in the product of matrices moves a few to the next bin.
            if np.abs(shares - others).sum() < 1e-3:
                return protocol
        self.shares[result.protocol] = shares
        return self.add(f"similarities_{result.protocol}", plot_similarities(*counts))


def _draw_lists(
    folder: Path, target: Target, result: RetrievalResult, number: int
) -> tuple[dict[str, list[RankedList]], list[RankedList]]:
    """Draws ``ranked_<protocol>/…`` and ``failures_<protocol>.png``; returns the lists."""
    protocol = result.protocol
    queries = target.images if protocol in IMAGE_QUERY_PROTOCOLS else target.captions
    gallery = target.captions if protocol == "i2t" else target.images
    examples = example_lists(result, queries, gallery, number)
    failures = ranked_lists(result, queries, gallery, worst_failures(result, number))
    ranked = _new_folder(folder, f"ranked_{protocol}")
    for item in (item for lists in examples.values() for item in lists):
        draw_ranked_lists([item], ranked / picture_name(item.number, item.pid))
    draw_ranked_lists(failures, folder / f"failures_{protocol}.png", describe_failures(failures))
    return examples, failures


def _draw_attention(
    folder: Path, target: Target, model: T2IReIDModel, transform: TestTransform, number: int
) -> Section:
    """Draws ``attention/…`` and, for drawn people, writes ``attention_shares.json``."""
    try:
        pictures = _attention_pictures(folder, target, model, transform, number)
    except (InputError, ConfigError) as error:  # no grid of patches, or branches that see one pooled token
        return attention_section(note=f"No attention maps: {error}.")
    if target.drawn_root is None:
        return attention_section(pictures)
    images = Path(target.drawn_root) / FOLDER / "imgs"
    try:
        photos = list(drawn_photos(target.drawn_root, target.split))
        maps = photo_maps(model, [images / row["file_path"] for row, _ in photos], transform)
        shares = attention_shares(maps, (part_masks(labels) for _, labels in photos), [row["id"] for row, _ in photos])
    except DataError as error:  # drawn by another version, or changed since; the other pictures are unaffected
        return attention_section(pictures, note=f"The body parts of the drawn people are unknown: {error}.")
    content = json.dumps({"photos": len(photos), "parts": shares}, indent=2)
    atomic_write_text(folder / "attention_shares.json", f"{content}\n")
    return attention_section(pictures, shares, len(photos))


def _attention_pictures(
    folder: Path, target: Target, model: T2IReIDModel, transform: TestTransform, number: int
) -> list[tuple[str, bytes]]:
    """Evenly spaced captions, each with the PNG file of its photo's maps."""
    positions = evenly_spaced(len(target.captions), number)
    if not positions:
        return []
    items = [target.captions[i] for i in positions]
    # Words of composed search describe not their own photo, which is not searched, but their matches.
    images = {path: i for i, (path, *_) in enumerate(target.images)}
    firsts = {pid: i for i, (_, pid, *_) in reversed([*enumerate(target.images)])}
    described = [images[path] if path in images else firsts[pid] for path, pid, *_ in items]
    paths, captions = [target.images[i][0] for i in described], [caption for *_, caption, _, _ in items]
    maps = photo_maps(model, paths, transform)
    (task,) = (result.task for result in target.results if result.protocol == OFFICIAL)
    assert task is not None
    words = word_relevance(model, captions, task.gallery[described])
    attention = _new_folder(folder, "attention")
    pictures = []
    for place, (path, (_, pid, *_)) in enumerate(zip(paths, items)):
        picture = attention / picture_name(positions[place], pid)
        draw_attention(path, [branch[place] for branch in maps], picture, words[place])
        pictures.append((captions[place], picture.read_bytes()))
    return pictures


def _new_folder(parent: Path, name: str) -> Path:
    """Creates and returns ``parent/name``, or ``parent/name-2`` and so on where it exists."""
    folder, number = parent / name, 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = parent / f"{name}-{number}"
        except OSError as error:
            raise DataError(f"'{folder}': cannot create the folder ({error.strerror})") from error
