"""True attributes of drawn photos, as labels for probes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic.folder import FOLDER, read_json

NOT_SHOWN = ""  # label of an attribute that the photo does not show

# Attributes that are visible, whatever their value, exactly where another one is: a back view does not show the face.
# Grey hair shows age from behind, but counting it would make "from behind" mean elderly.
_VISIBLE_WITH = {"age": "skin", "glasses": "skin"}
# Attributes whose absence is visible where another one is; the absence of a colour is that of its garment.
_ABSENCE_VISIBLE_WITH = {"pattern": "upper_kind", "bag_kind": "upper_kind", "hat_kind": "hair_style"}
_ABSENT = ("none", "plain")


class Truth(NamedTuple):
    """Labels of ``n`` photos."""

    # By side (identity stays when the person changes clothes) and name: strings [n], `NOT_SHOWN` where not visible.
    attributes: dict[str, dict[str, npt.NDArray[np.str_]]]
    pids: npt.NDArray[np.int64]  # [n]
    outfits: npt.NDArray[np.int64]  # [n] number of the person's outfit, from 0


def read_truth(root: str | os.PathLike, paths: Sequence[str]) -> Truth:
    """True attributes of the photos ``paths`` under ``root/CUHK-PEDES/imgs``, in their order.

    Raises:
        DataError: when ``root`` does not hold drawn people, or a path is not one of their photos.
    """
    folder = Path(os.path.expanduser(root)) / FOLDER
    content = read_json(folder / "attributes.json")
    photos, names = content["photos"], [os.path.relpath(path, folder / "imgs") for path in paths]
    for name, path in zip(names, paths, strict=True):
        if name not in photos:
            raise DataError(f"'{path}' is not one of the drawn photos in '{folder}'")
    rows = [_labels(content["people"], photos[name]) for name in names]
    attributes = {
        side: {name: np.array([row[side][name] for row in rows]) for name in rows[0][side]}
        for side in ("identity", "clothing")
    }
    pids = np.array([photos[name]["id"] for name in names], np.int64)
    return Truth(attributes, pids, np.array([photos[name].get("outfit", 0) for name in names], np.int64))


def _labels(people: Mapping[str, Any], photo: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Labels of one photo, by side and attribute."""
    person = people[str(photo["id"])]
    clothing = person["outfits"][photo["outfit"]] if "outfits" in person else person["clothing"]

    def label(name: str, value: str) -> str:
        absence = _ABSENCE_VISIBLE_WITH.get(name) if value in _ABSENT else name
        return value if _VISIBLE_WITH.get(name, absence) in photo["visible"] else NOT_SHOWN

    return {
        side: {name: label(name, value) for name, value in values.items()}
        for side, values in (("identity", person["identity"]), ("clothing", clothing))
    }
