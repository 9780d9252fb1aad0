"""Features of the tokens of a frozen text encoder, computed once: kept in memory, or in a file for all processes.

They are kept in half precision, a token's ``D`` numbers in ``2 D`` bytes: CUHK-PEDES's 68,126 training captions take
about 3 GB with BERT-base. A feature is found by the encoder's weights and configuration and by the ids of the text, so
other weights or another tokenizer find nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from t2ireid_plugin.engine.feature_file import FeatureFile, locked, make_room, write_features
from t2ireid_plugin.engine.parking import Parking
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.modeling.encoders.token_features import TEXTS_AT_ONCE, Ids, word_features
from t2ireid_plugin.modeling.folding import Derived

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Of a configuration, what says where it came from and not what the encoder does.
_ORIGIN = ("_name_or_path", "transformers_version", "_commit_hash")


class TextFeatures:
    """Token features by the encoder's weights and the text.

    Args:
        limit: bytes that features may take; what has no room is computed each time.
        folder: where files of features lie, which all processes of a machine share and which may be deleted at any
            time; without it features are kept in memory as they are first asked for.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit, self.folder = limit, folder
        self._print: Derived[str] = Derived()
        self._known_print = ""
        self._kept: dict[bytes, npt.NDArray[np.float16]] = {}
        self._used = 0
        self._file: FeatureFile | None = None
        self._parking: Parking | None = None

    def __len__(self) -> int:
        """Number of texts whose features are at hand."""
        return len(self._kept) + (0 if self._file is None else len(self._file))

    def __call__(self, encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
        """As `words.word_features`, whose numbers these are, rounded to half precision."""
        self._follow(encoder)
        keys = [_key(ids) for ids in texts]
        found = [self._find(key) for key in keys]
        missing = [i for i, rows in enumerate(found) if rows is None]
        if missing:
            computed = _half(encoder, [texts[i] for i in missing], pad)
            for i, rows in zip(missing, computed):
                found[i] = rows
                self._keep(keys[i], rows)
        joined = torch.from_numpy(np.concatenate([rows for rows in found if rows is not None]))
        if encoder.device.type == "cuda":
            joined = joined.pin_memory()
        return joined.to(encoder.device, non_blocking=True).to(encoder.dtype)

    def fill(self, encoder: PreTrainedModel, texts: Iterable[Ids], pad: int, show: bool = True) -> None:
        """Writes a file with the features of ``texts``, or finds it written; of more than have room, the first.

        Raises:
            DataError: when it cannot be written.
        """
        assert self.folder is not None
        self._follow(encoder)
        chosen = self._fitting(sorted(set(texts), key=lambda ids: (len(ids), ids)), encoder.config.hidden_size)
        name = hashlib.blake2b(b"".join(map(_key, chosen)), digest_size=8).hexdigest()
        path = self.folder / f"{self._known_print}-{name}.safetensors"
        self._file = FeatureFile.open(path)
        try:
            if self._file is None and chosen:
                self.folder.mkdir(parents=True, exist_ok=True)
                with locked(self.folder):  # of several processes one writes, and the others wait for it
                    self._file = FeatureFile.open(path) or self._write(path, encoder, chosen, pad, show)
        except OSError as error:
            raise DataError(f"data.text_feature_cache: cannot use '{self.folder}' ({error.strerror})") from error
        logger.info("features of %d texts in '%s'", len(chosen), path)

    def _write(
        self, path: Path, encoder: PreTrainedModel, texts: list[Ids], pad: int, show: bool
    ) -> FeatureFile | None:
        make_room(path.parent, self.limit - _bytes(texts, encoder.config.hidden_size))
        write_features(path, [_key(ids) for ids in texts], list(map(len, texts)), _computed(encoder, texts, pad), show)
        return FeatureFile.open(path)

    def park(self, encoder: PreTrainedModel) -> None:
        """Puts the weights of an encoder on the CPU, which is hardly needed from now on, into a file in the folder.

        Raises:
            DataError: when it cannot be written.
        """
        assert self.folder is not None
        try:
            self._parking = Parking(encoder, self.folder)
        except OSError as error:
            raise DataError(f"data.text_feature_cache: cannot use '{self.folder}' ({error.strerror})") from error

    def recheck(self) -> None:
        """Looks at every weight again when next asked, also for changes that PyTorch does not count."""
        self._print.clear()

    def __deepcopy__(self, memo: object) -> TextFeatures:
        return self  # copies of a model have the same frozen encoder, or else find nothing here

    def __reduce__(self) -> tuple[type[TextFeatures], tuple[int, Path | None]]:
        return TextFeatures, (self.limit, self.folder)

    def _follow(self, encoder: PreTrainedModel) -> None:
        """Forgets what another encoder, or this one with other weights, has computed."""
        sources = [*encoder.parameters(), *encoder.buffers()]
        found = self._print.get(sources, lambda: self._look(encoder))
        if found != self._known_print:
            self._kept, self._used, self._file = {}, 0, None
            self._known_print = found

    def _look(self, encoder: PreTrainedModel) -> str:
        found = fingerprint(encoder)
        if self._parking is not None:
            self._parking.release()
        return found

    def _find(self, key: bytes) -> npt.NDArray[np.float16] | None:
        rows = self._kept.get(key)
        return self._file.find(key) if rows is None and self._file is not None else rows

    def _keep(self, key: bytes, rows: npt.NDArray[np.float16]) -> None:
        held = self._used + rows.nbytes
        if self.folder is None and held <= self.limit:
            self._kept[key], self._used = rows, held

    def _fitting(self, texts: Sequence[Ids], width: int) -> list[Ids]:
        room = self.limit
        fitting: list[Ids] = []
        for ids in texts:
            room -= _bytes([ids], width)
            if room < 0:
                logger.warning(
                    "data.text_feature_cache: %d of %d texts fit into %.1f GB; the others are encoded each time",
                    len(fitting),
                    len(texts),
                    self.limit / 1e9,
                )
                break
            fitting.append(ids)
        return fitting


@torch.no_grad()
def fingerprint(encoder: PreTrainedModel) -> str:
    """A name for what the encoder computes: a hash of its configuration and of every weight."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in _ORIGIN}
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _key(ids: Ids) -> bytes:
    return hashlib.blake2b(array("i", ids).tobytes(), digest_size=16).digest()


def _bytes(texts: Iterable[Ids], width: int) -> int:
    return 2 * width * sum(map(len, texts))


def _half(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> list[npt.NDArray[np.float16]]:
    """Features of each text, ``[length, D]``."""
    with torch.no_grad(), torch.autocast(encoder.device.type, enabled=False):
        features = word_features(encoder, texts, pad).half().cpu().numpy()
    return [part.copy() for part in np.split(features, np.cumsum([len(ids) for ids in texts])[:-1])]


def _computed(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Iterator[npt.NDArray[np.float16]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield from _half(encoder, texts[start : start + TEXTS_AT_ONCE], pad)


def default_folder() -> Path:
    """Where files of features lie unless told otherwise: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2ireid_plugin" / "text_features"
