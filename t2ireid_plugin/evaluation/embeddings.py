"""Embeddings of a target for all protocols, from one pass over its data.

Only a fusion of tokens (sequence_mamba) reads the images a second time: the tokens of a whole gallery would take
hundreds of times the memory of its embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from t2ireid_plugin.data.composed import composed_queries
from t2ireid_plugin.evaluation.protocols import Embeddings, required
from t2ireid_plugin.modeling.ranking import BOTH
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.distributed import all_gather_interleaved, all_gather_list

# Field of `Embeddings` to the text of an item that it embeds.
_TEXTS = {"captions": "caption", "identity": "id_text", "clothing": "cloth_text"}
_PARTS = ("identity_parts", "clothing_parts")  # of the caption, as `Ranking.parts` splits it
_WORDS = ("identity_words", "clothing_words")  # of the clothing text, likewise


@torch.no_grad()
def embed_target(
    model: T2IReIDModel, query_loader: DataLoader, gallery_loader: DataLoader, protocols: Sequence[str], label: str = ""
) -> Embeddings:
    """Encodes each image and each text once; the model should be in eval mode.

    Args:
        model: the network.
        query_loader: batches of texts, each with the path of the photo that it describes.
        gallery_loader: batches of images.
        protocols: names of `PROTOCOLS`.
        label: the target's name, for the progress bar.

    Raises:
        ConfigError: for ti2i and composed with a model without fusion.
        DataError: for composed search where no person has photos in two outfits.
    """
    ranking = model.ranking
    needs = required(protocols, ranking)
    images, cloth_images, pids, camids, paths = _embed_images(model, gallery_loader, "cloth_images" in needs, label)
    number = {path: i for i, path in enumerate(paths)}
    texts: dict[str, list[Tensor]] = {need: [] for need in (*_TEXTS, *_PARTS, *_WORDS) if need in needs}
    # Position of the described image, and the texts to fuse with it and with the photo of composed search.
    queries: list[list[tuple[int, str, str]]] = []
    for batch in tqdm(query_loader, desc=f"{label} queries", leave=False, disable=None):
        captions = list(batch["caption"])
        own = {need: list(batch[column]) for need, column in _TEXTS.items() if need in needs}
        if ranking.by == BOTH:
            own |= zip(_PARTS, ranking.parts(captions))
            own |= zip(_WORDS, ranking.parts(list(batch["cloth_text"])))
        fusable = own.get(_PARTS[0], captions), own.get(_WORDS[0], batch["cloth_text"])
        queries.append(list(zip(map(number.__getitem__, batch["impath"]), *fusable, strict=True)))
        # Each text once, as a text of the annotation is often a part of its caption.
        if distinct := list(dict.fromkeys(text for need in texts for text in own[need])):
            place = {text: i for i, text in enumerate(distinct)}
            embeds = model.encode_text(distinct).cpu()
            for need, parts in texts.items():
                parts.append(embeds[[place[text] for text in own[need]]])
    whole = {need: torch.cat(all_gather_interleaved(parts)) for need, parts in texts.items()}
    described, *texts_to_fuse = zip(
        *(query for batch in all_gather_interleaved(queries) for query in batch), strict=True
    )
    rows, composed = np.array(described), {}
    if "looks" in needs:
        sides: list[Any] = [query_loader.dataset, gallery_loader.dataset]
        search = composed_queries(*(side.data for side in sides))
        composed = {"references": rows.copy(), "looks": np.full(len(rows), -2), "gallery_looks": search.gallery_looks}
        composed["references"][search.captions], composed["looks"][search.captions] = search.references, search.looks
    shown: dict[str, Tensor] = {}  # the parts, zero where a text lacks them
    for names, column in ((_PARTS, -3), (_WORDS, -1)):
        if names[0] in whole:
            items: Any = query_loader.dataset
            read = [item[column] for item in items.data]
            shown |= zip(names, ranking.without_missing(read, *(whole[name] for name in names)))
    by_both = ranking.by == BOTH
    photos: dict[str, tuple[Any, tuple[str, ...]]] = {"fused": (rows, _PARTS if by_both else ("captions",))}
    photos["composed_fused"] = composed.get("references"), _WORDS if by_both else ("clothing",)
    for (need, (photo, branches)), own_texts in zip(photos.items(), texts_to_fuse, strict=True):
        if need in needs and model.fuses_tokens:
            whole[need] = _fuse_tokens(model, gallery_loader, photo, number, own_texts, label)
        elif need in needs:
            inputs = [images[photo], whole[branches[0]]]
            if model.fuses_branches:
                inputs = [images[photo], shown[branches[0]], cloth_images[photo], shown[branches[1]]]
            chunks = zip(*(embeds.split(1024) for embeds in inputs), strict=True)
            whole[need] = torch.cat([model.fuse(*chunk)[0].cpu() for chunk in chunks])
    whole |= shown
    return Embeddings(images, pids, camids, rows, ranking, cloth_images=cloth_images, **whole, **composed)


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
    model: T2IReIDModel,
    gallery_loader: DataLoader,
    rows: Any,
    number: Mapping[str, int],
    texts: Sequence[str],
    label: str,
) -> Tensor:
    """Fused embeddings ``[n, D]`` of texts with the images at ``rows [n]`` of the gallery, which is read again.

    ``number`` is the position in the gallery of each path.
    """
    parts: list[tuple[Any, Tensor]] = []  # positions of captions, and their fused embeddings
    for batch in tqdm(gallery_loader, desc=f"{label} fusion", leave=False, disable=None):
        start = number[batch["impath"][0]]
        here = np.flatnonzero((start <= rows) & (rows < start + len(batch["img"])))
        for chunk in np.split(here, range(64, len(here), 64)) if len(here) else ():
            own = [texts[i] for i in chunk]
            parts.append((chunk, model(batch["img"][rows[chunk] - start], id_instruction=own).fused_embeds.cpu()))
    positions, embeds = zip(*all_gather_list(parts), strict=True)
    return torch.cat(embeds)[np.argsort(np.concatenate(positions))]
