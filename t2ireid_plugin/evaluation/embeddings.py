"""Embeddings of a target for all protocols, from one pass over its data.

Only a fusion of tokens (sequence_mamba) reads the images a second time: the tokens of a whole gallery would take
hundreds of times the memory of its embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from t2ireid_plugin.data.composed import composed_queries
from t2ireid_plugin.data.item_table import PID
from t2ireid_plugin.evaluation.protocols import Embeddings, required
from t2ireid_plugin.modeling.ranking import BOTH
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.distributed import all_gather_interleaved, all_gather_list

# Field of `Embeddings` to the text of an item that it embeds.
_TEXTS = {"captions": "caption", "identity": "id_text", "clothing": "cloth_text"}
# What each fused embedding reads: the column of an item's text, the field of the whole text, and those of its parts, as
# `Ranking.parts` splits it.
_FUSED = {
    "fused": (-3, "captions", ("identity_parts", "clothing_parts")),
    "composed_fused": (-1, "clothing", ("identity_words", "clothing_words")),
}


@torch.no_grad()
def embed_target(
    model: T2IReIDModel,
    query_loader: DataLoader,
    gallery_loader: DataLoader,
    protocols: Sequence[str],
    label: str = "",
    references: DataLoader | None = None,
) -> Embeddings:
    """Encodes each image and each text once; the model should be in eval mode.

    Args:
        model: the network.
        query_loader: batches of texts, each with the path of the photo that it describes.
        gallery_loader: batches of images.
        protocols: names of `PROTOCOLS`.
        label: the target's name, for the progress bar.
        references: batches of the photos of composed queries, where these are not in the gallery.

    Raises:
        ConfigError: for ti2i and composed with a model without fusion.
        DataError: for composed search where no person has photos in two outfits.
    """
    needs, ranking = required(protocols, model.ranking), model.ranking
    items: Any = query_loader.dataset
    clothing, own_pids = "cloth_images" in needs, None if references is None else items.data.columns[:, PID].numpy()
    loaders = [loader for loader in (gallery_loader, references) if loader is not None]
    embedded = [_embed_images(model, loader, clothing, label) for loader in loaders]
    images = torch.cat([own[0] for own in embedded])
    cloth_images: Any = torch.cat([own[1] for own in embedded]) if clothing else None
    pids, camids = embedded[0][2:4]
    paths = [path for own in embedded for path in own[4]]
    number = {path: i for i, path in enumerate(paths)}  # of a photo that is searched and shown, the one shown
    embeds = _embed_texts(model, query_loader, needs, label)
    rows = np.array([number[item[0]] for item in items.data])
    outfits: dict[str, Any] = {}
    if "looks" in needs and own_pids is not None:
        outfits = {"references": rows, "looks": own_pids, "gallery_looks": pids}
    elif "looks" in needs:
        outfits = _find_composed(items.data, gallery_loader, rows)
    fused = {}
    for (need, (column, whole, parts)), photos in zip(_FUSED.items(), (rows, outfits.get("references")), strict=True):
        shown = [embeds[part] for part in parts if part in embeds]
        by_both = ranking.by == BOTH and bool(shown)
        if not (by_both or need in needs):
            continue
        texts = [item[column] for item in items.data]
        first = embeds.get(parts[0] if by_both else whole)
        if by_both:  # the fusions of one branch read the stand-in of a part that is missing
            embeds |= zip(parts, ranking.without_missing(texts, *shown), strict=True)
        if need in needs and model.fuses_tokens:
            read = ranking.parts(texts)[0] if by_both else texts
            fused[need] = _fuse_tokens(model, loaders, photos, read, label)
        elif need in needs:
            inputs: list[Any] = [images[photos], first]
            if model.fuses_branches:
                inputs = [images[photos], embeds[parts[0]], cloth_images[photos], embeds[parts[1]]]
            chunks = zip(*(embed.split(1024) for embed in inputs), strict=True)
            fused[need] = torch.cat([model.fuse(*chunk)[0].cpu() for chunk in chunks])
    fields: dict[str, Any] = {"cloth_images": cloth_images, "own_pids": own_pids, **embeds, **fused, **outfits}
    return Embeddings(images, pids, camids, rows, ranking, **fields)


def _find_composed(captions: Any, gallery_loader: DataLoader, rows: Any) -> dict[str, Any]:
    """The fields of composed search, with the described photo as the reference of a caption that has no query."""
    gallery: Any = gallery_loader.dataset
    search = composed_queries(captions, gallery.data)
    references, looks = rows.copy(), np.full(len(rows), -2)
    references[search.captions], looks[search.captions] = search.references, search.looks
    return {"references": references, "looks": looks, "gallery_looks": search.gallery_looks}


def _embed_texts(model: T2IReIDModel, loader: DataLoader, needs: set[str], label: str) -> dict[str, Tensor]:
    """The texts among the ``needs``, ``[n, D]`` each, in the order of the dataset."""
    names = [*_TEXTS, *(part for _, _, parts in _FUSED.values() for part in parts)]
    # All of them at once, since a process may have no batch, but must take part in every gathering.
    embeds: dict[str, list[Tensor]] = {need: [] for need in names if need in needs}
    for batch in tqdm(loader, desc=f"{label} queries", leave=False, disable=None):
        own = {need: list(batch[column]) for need, column in _TEXTS.items() if need in needs}
        for column, (_, _, parts) in zip(("caption", "cloth_text"), _FUSED.values(), strict=True):
            if parts[0] in needs:
                own |= zip(parts, model.ranking.parts(list(batch[column])), strict=True)
        # Each text once, as a text of the annotation is often a part of its caption.
        if distinct := list(dict.fromkeys(text for texts in own.values() for text in texts)):
            place = {text: i for i, text in enumerate(distinct)}
            vectors = model.encode_text(distinct).cpu()
            for need, texts in own.items():
                embeds[need].append(vectors[[place[text] for text in texts]])
    return {need: torch.cat(all_gather_interleaved(parts)) for need, parts in embeds.items()}


def _embed_images(model: T2IReIDModel, loader: DataLoader, clothing: bool, label: str) -> tuple[Any, ...]:
    """Embeddings ``[m, D]``, clothing embeddings or None, pids, camids ``[m]`` and paths."""
    parts: list[tuple[Any, ...]] = []
    for batch in tqdm(loader, desc=f"{label} gallery", leave=False, disable=None):
        labels = batch["pid"].numpy(), batch["camid"].numpy(), batch["impath"]
        if clothing:
            output = model(batch["img"])
            parts.append((*labels, output.image_embeds.cpu(), output.cloth_image_embeds.cpu()))
        else:
            parts.append((*labels, model.encode_image(batch["img"]).cpu()))
    pids, camids, paths, images, *rest = zip(*all_gather_interleaved(parts), strict=True)
    cloth_images = torch.cat(rest[0]) if rest else None
    every_path = [path for batch in paths for path in batch]
    return torch.cat(images), cloth_images, np.concatenate(pids), np.concatenate(camids), every_path


def _fuse_tokens(
    model: T2IReIDModel, loaders: Sequence[DataLoader], rows: Any, texts: Sequence[str], label: str
) -> Tensor:
    """Fused embeddings ``[n, D]`` of texts with the images at ``rows [n]`` of the loaders, which are read again."""
    parts: list[tuple[Any, Tensor]] = []  # positions of captions, and their fused embeddings
    first = 0  # of this loader's images
    for loader in loaders:
        batches: Any = zip(loader, loader.batch_sampler or (), strict=True)
        for batch, numbers in tqdm(batches, desc=f"{label} fusion", total=len(loader), leave=False, disable=None):
            start = first + numbers[0]
            here = np.flatnonzero((start <= rows) & (rows < start + len(batch["img"])))
            for chunk in np.split(here, range(64, len(here), 64)) if len(here) else ():
                own = [texts[i] for i in chunk]
                parts.append((chunk, model(batch["img"][rows[chunk] - start], id_instruction=own).fused_embeds.cpu()))
        dataset: Any = loader.dataset
        first += len(dataset)
    positions, embeds = zip(*all_gather_list(parts), strict=True)
    return torch.cat(embeds)[np.argsort(np.concatenate(positions))]
