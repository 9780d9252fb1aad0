"""Further outfits of a drawn person, for clothes-changing tests: the same body, hair, skin and glasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import numpy as np

from t2ireid_plugin.synthetic.attributes import Clothing, Person, sample_clothing, sample_people

SPLITS = ("train", "val", "test")
MOST_OUTFITS = 3  # as there are three kinds of shoes, and all outfits of a person have different ones
_NOT_THERE = ("none", "plain")
_MAY_STAY = ("sleeve",)  # long or short: of three outfits two must share it


def sample_cast(arguments: Mapping[str, int]) -> list[tuple[str, list[Person]]]:
    """The split and the outfits of everybody, from the arguments of `write_synthetic`; ids 1… in this order.

    Any two outfits of a person differ in all that `shared_attributes` looks at; no two people have the same attributes
    in any of their outfits. The first outfit does not depend on how many there are.
    """
    splits = [split for split in SPLITS for _ in range(arguments[f"{split}_ids"])]
    people = sample_people(len(splits), arguments["seed"])
    taken = {(person.identity, person.clothing) for person in people}
    cast = []
    for split, person in zip(splits, people, strict=True):
        outfits = [person]
        wanted = arguments.get("outfits" if split == "test" else "train_outfits", 1)
        for clothing in _more_clothing(person, arguments["seed"]) if wanted > 1 else ():
            looks = person.identity, clothing
            if looks not in taken and all(not shared_attributes(clothing, worn.clothing) for worn in outfits):
                taken.add(looks)
                outfits.append(replace(person, clothing=clothing))
            if len(outfits) == wanted:
                break
        cast.append((split, outfits))
    return cast


def shared_attributes(first: Clothing, second: Clothing) -> set[str]:
    """What two outfits of a person must not have in common: all but sleeve length and what neither has."""
    worn, other = asdict(first), asdict(second)
    return {name for name in worn if worn[name] == other[name] not in _NOT_THERE and name not in _MAY_STAY}


def outfit_of(photo: int, photos: int, outfits: int) -> int:
    """The outfit of each of a person's photos, all from 0: one after the other, not in turn.

    Cameras follow each other in turn, so with two of them in turn each would see one outfit only.
    """
    return photo * outfits // photos


def _more_clothing(person: Person, seed: int) -> Iterator[Clothing]:
    rng = np.random.default_rng((seed, person.pid, 2))
    while True:
        yield sample_clothing(rng, person.identity.sex)
