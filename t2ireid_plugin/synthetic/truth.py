"""The true attributes of drawn photos, as labels for probes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes

NOT_SHOWN = ""  # in place of a value that the photo does not show

# An attribute that a photo shows whatever its value, as the second does; a back view shows no face, and though grey
# hair tells age from behind, counting it would make "from behind" mean elderly.
_SHOWN_WITH = {"age": "skin", "glasses": "skin"}
# What a photo must show for the lack of the first to be seen; the lack of a colour is that of its garment.
_LACK_SHOWN_WITH = {"pattern": "upper_kind", "bag_kind": "upper_kind", "hat_kind": "hair_style"}
_LACKS = ("none", "plain")


class Truth(NamedTuple):
    """What ``n`` photos show; an attribute's values are strings ``[n]``, `NOT_SHOWN` where a photo does not show it."""

    identity: dict[str, npt.NDArray[np.str_]]  # what stays when the person changes clothes
    clothing: dict[str, npt.NDArray[np.str_]]
    pids: npt.NDArray[np.int64]  # [n]
    outfits: npt.NDArray[np.int64]  # [n] number of the person's outfit, from 0

    @property
    def changes_clothes(self) -> bool:
        """Whether anybody wears more than one outfit."""
        return len(np.unique(self.outfits)) > 1


def read_truth(root: str | os.PathLike, paths: Sequence[str]) -> Truth:
    """The truth about photos under ``root/CUHK-PEDES/imgs``, in the order of their paths.

    Raises:
        DataError: when ``root`` holds no drawn people or a path is none of their photos.
    """
    folder = Path(root).expanduser() / "CUHK-PEDES"
    file = folder / "attributes.json"
    try:
        content = parse_json(read_bytes(file))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); only people drawn by `t2ireid prepare synthetic` have true attributes"
        ) from None
    photos, names = content["photos"], [os.path.relpath(path, folder / "imgs") for path in paths]
    for name, path in zip(names, paths, strict=True):
        if name not in photos:
            raise DataError(f"'{path}' is none of the drawn photos in '{folder}'")
    rows = [_shown(content["people"], photos[name]) for name in names]
    identity, clothing = (
        {key: np.array([row[side][key] for row in rows]) for key in (rows[0][side] if rows else ())}
        for side in ("identity", "clothing")
    )
    pids = np.array([photos[name]["id"] for name in names], np.int64)
    return Truth(identity, clothing, pids, np.array([photos[name].get("outfit", 0) for name in names], np.int64))


def _shown(people: Mapping[str, Any], photo: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Both sides' values on one photo."""
    person, visible = people[str(photo["id"])], photo["visible"]
    clothing = person["outfits"][photo["outfit"]] if "outfits" in person else person["clothing"]
    return {
        side: {name: value if _shows(name, value, visible) else NOT_SHOWN for name, value in values.items()}
        for side, values in (("identity", person["identity"]), ("clothing", clothing))
    }


def _shows(name: str, value: str, visible: Sequence[str]) -> bool:
    if name in _SHOWN_WITH:
        return _SHOWN_WITH[name] in visible
    return (_LACK_SHOWN_WITH.get(name) if value in _LACKS else name) in visible
