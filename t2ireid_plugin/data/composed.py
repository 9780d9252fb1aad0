"""Queries of composed search: a photo of a person in one outfit, with words for another outfit.

The protocol is that of ITCPR (Liu et al. 2023, arXiv:2311.16515): all queries search one gallery, and a match shows the
photo's person in the described outfit; the same person in any other outfit counts as wrong. Two things differ: the
query's own photo is left out of its gallery, and all photos in the described outfit match, not one chosen target.
"""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.data.annotations import UNKNOWN_OUTFIT
from t2ireid_plugin.data.item_table import CAPTION, OUTFIT, PATH, PID, ItemTable
from t2ireid_plugin.errors import DataError

Labels = npt.NDArray[np.int64]


class ComposedQueries(NamedTuple):
    """``q`` queries for a gallery of ``m`` images; a match has the query's look."""

    references: Labels  # [q] position in the gallery of the query's photo, which is no answer to it
    captions: Labels  # [q] position among the split's captions of the query's words, ascending
    looks: Labels  # [q] person and described outfit as one number
    gallery_looks: Labels  # [m] person and outfit of each image, -1 where the outfit is unknown


def has_composed(captions: ItemTable, images: ItemTable) -> bool:
    """Whether `composed_queries` finds a query."""
    try:
        composed_queries(captions, images)
    except DataError:
        return False
    return True


def composed_queries(captions: ItemTable, images: ItemTable) -> ComposedQueries:
    """One query per caption whose person has photos in another outfit; one of these photos is its reference.

    A reference is chosen by a hash of the file names and the caption, so it depends neither on the order of the rows
    nor on other people.

    Args:
        captions: the split's captions, as a dataset's ``query``.
        images: its images, as ``gallery``.

    Raises:
        DataError: when no person has photos in two numbered outfits.
    """
    people, outfits = images.columns[:, PID].tolist(), images.columns[:, OUTFIT].tolist()
    looks = np.unique(images.columns[:, [PID, OUTFIT]].numpy(), axis=0, return_inverse=True)[1].reshape(-1)
    gallery_looks = np.where(np.array(outfits) == UNKNOWN_OUTFIT, -1, looks)
    photos: dict[int, list[int]] = defaultdict(list)  # of each person, in numbered outfits
    for position, (pid, outfit) in enumerate(zip(people, outfits)):
        if outfit != UNKNOWN_OUTFIT:
            photos[pid].append(position)
    paths = images.columns[:, PATH].tolist()
    place = {path: position for position, path in enumerate(paths)}  # by number: both tables share their strings
    names = ["/".join(PurePath(path).parts[-2:]) for path in images.texts.many(paths)]
    texts = captions.texts.many(captions.columns[:, CAPTION].tolist())
    queries: list[tuple[int, int, int]] = []
    for number, (path, text) in enumerate(zip(captions.columns[:, PATH].tolist(), texts)):
        described = place[path]
        others = [photo for photo in photos[people[described]] if outfits[photo] != outfits[described]]
        if others and outfits[described] != UNKNOWN_OUTFIT:
            keys = [blake2b(repr((names[described], text, names[photo])).encode()).digest() for photo in others]
            queries.append((others[keys.index(min(keys))], number, gallery_looks[described]))
    if not queries:
        raise DataError(
            "composed search needs people with photos in two outfits, numbered by `outfit` in the annotation, as "
            "`t2ireid prepare synthetic OUT --outfits 2 --train-outfits 2` draws them"
        )
    references, numbers, wanted = np.array(queries, np.int64).T
    return ComposedQueries(references, numbers, wanted, gallery_looks)
