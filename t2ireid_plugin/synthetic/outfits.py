"""Several outfits of a drawn person, for clothes-changing tests: the same body, hair, skin and glasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from t2ireid_plugin.synthetic.attributes import Clothing, Person, sample_clothing, sample_people

SPLITS = ("train", "val", "test")
MAX_OUTFITS = 3  # as there are three kinds of shoes, and all outfits of a person have different ones
_ABSENT = ("none", "plain")


def sample_cast(arguments: Mapping[str, int]) -> list[tuple[str, list[Person]]]:
    """Split and outfits of each person, from the arguments of `write_synthetic`; ids are 1… in this order.

    Any two outfits of a person differ in all attributes except sleeve length and items that both lack; no two people
    have the same attributes in any of their outfits. The first outfit does not depend on how many there are.
    """
    splits = [split for split in SPLITS for _ in range(arguments[f"{split}_ids"])]
    people = sample_people(len(splits), arguments["seed"])
    taken = {(person.identity, person.clothing) for person in people}
    cast = []
    for split, person in zip(splits, people, strict=True):
        outfits = [person]
        rng = np.random.default_rng((arguments["seed"], person.pid, 2))
        while len(outfits) < arguments.get("outfits" if split == "test" else "train_outfits", 1):
            clothing = sample_clothing(rng, person.identity.sex)
            looks = person.identity, clothing
            if looks not in taken and not any(_share_an_item(clothing, worn.clothing) for worn in outfits):
                taken.add(looks)
                outfits.append(replace(person, clothing=clothing))
        cast.append((split, outfits))
    return cast


def _share_an_item(first: Clothing, second: Clothing) -> bool:
    worn, other = asdict(first), asdict(second)
    del worn["sleeve"]  # long or short: of three outfits two must share it
    return any(other[name] == value not in _ABSENT for name, value in worn.items())


def outfit_of(photo: int, photos: int, outfits: int) -> int:
    """Index of the outfit in a person's photo, both from 0: one after the other, not in turn.

    Cameras take turns, so with two cameras and outfits in turn each camera would see one outfit only.
    """
    return photo * outfits // photos
