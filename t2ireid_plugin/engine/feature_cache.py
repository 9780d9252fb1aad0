"""Cache of a frozen text encoder's token features, in memory or in a file that processes share.

Features are stored in half precision, ``2 D`` bytes per token: CUHK-PEDES's 68,126 training captions take about 3 GB
with BERT-base. A file is a NumPy array ``[N, D]``, the tokens of all texts one after the other, and a digest of it. Its
name is a digest of the encoder's configuration and weights and of the texts, so a file of other weights or texts is
never read; a damaged one is written again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.modeling.checkpoint import DIGEST_LENGTH, stream_digest, weights_digest
from t2ireid_plugin.modeling.encoders.token_features import TEXTS_AT_ONCE, Ids, encode_texts
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.progress import show_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
Rows = npt.NDArray[np.float16]

# Entries of an encoder's configuration that do not change its features.
_ORIGIN = ("_name_or_path", "transformers_version", "_commit_hash")


class FeatureCache:
    """Token features by text, valid for one set of encoder weights; implements `TokenFeatureCache`.

    Args:
        max_bytes: limit of the features kept in memory; texts beyond it are encoded each time.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = self._room = max_bytes
        self._rows: dict[Ids, Rows] = {}  # [length, D] by text
        self._digest = ""  # of the encoder that the rows belong to
        self._versions: list[tuple[int, int]] = []  # of its tensors when they were last read

    @classmethod
    def on_disk(
        cls, folder: Path, max_bytes: int, encoder: PreTrainedModel, texts: Iterable[Ids], pad: int
    ) -> FeatureCache:
        """A cache with the features in a file in ``folder``, which is written first unless it exists.

        The file is mapped into memory, so that processes share its pages. It may be deleted at any time.

        Args:
            folder: created if needed.
            max_bytes: limit of the file.
            encoder: the text encoder.
            texts: token ids; of more than fit, the longest are left out and encoded each time.
            pad: the padding token.

        Raises:
            DataError: when the file cannot be written.
        """
        cache, width = cls(0), int(encoder.config.hidden_size)
        cache._follow(encoder)
        ordered = sorted(set(texts), key=lambda ids: (len(ids), ids))
        ends = np.cumsum([len(ids) for ids in ordered], dtype=int)
        ends = ends[2 * width * ends <= max_bytes]
        if not len(ends):
            return cache
        chosen, tokens = ordered[: len(ends)], int(ends[-1])
        if len(chosen) < len(ordered):
            logger.warning(
                "data.text_feature_cache: %d of %d texts fit into data.text_feature_cache_gb; the others are encoded "
                "each time",
                len(chosen),
                len(ordered),
            )
        texts_digest = hashlib.blake2b(json.dumps(chosen).encode(), digest_size=8).hexdigest()
        path = folder / f"{cache._digest}-{texts_digest}.npy"

        def write(draft: Path) -> None:
            # Not through a memory map, where a full disk kills the process.
            with open(draft, "wb") as stream:
                header = {"descr": "<f2", "fortran_order": False, "shape": (tokens, width)}
                np.lib.format.write_array_header_1_0(stream, header)
                rows = _encode(encoder, chosen, pad)
                for part in show_progress(rows, len(chosen), "text features", "text"):
                    stream.write(part.tobytes())
            with open(draft, "rb+") as stream:
                stream.write(stream_digest(stream, draft.stat().st_size))

        try:
            features = _open(path)
            if features is None:
                folder.mkdir(parents=True, exist_ok=True)
                with FileLock(folder / "lock"):  # of several processes one writes, and the others wait
                    if _open(path) is None:
                        atomic_write(path, write)
                features = _open(path)
        except (OSError, NotImplementedError) as error:  # the latter on file systems without locks
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"data.text_feature_cache: cannot use '{folder}' ({reason})") from error
        cache._rows = dict(zip(chosen, np.split(features, ends[:-1])))
        logger.info("features of %d texts in '%s'", len(chosen), path)
        return cache

    def __call__(self, encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
        """Token features ``[N, D]`` as `encode_texts` computes them, rounded to half precision."""
        self._follow(encoder)
        missing = [ids for ids in dict.fromkeys(texts) if ids not in self._rows]
        computed = dict(zip(missing, _encode(encoder, missing, pad)))
        for ids, rows in computed.items():
            if rows.nbytes <= self._room:
                self._rows[ids] = rows
                self._room -= rows.nbytes
        joined = torch.from_numpy(
            np.concatenate([computed[ids] if ids in computed else self._rows[ids] for ids in texts])
        )
        if encoder.device.type == "cuda":
            joined = joined.pin_memory()
        return joined.to(encoder.device, non_blocking=True).to(encoder.dtype)

    def __deepcopy__(self, memo: object) -> FeatureCache:
        return self  # copies of a model share its features, as their frozen encoder is the same

    def _follow(self, encoder: PreTrainedModel) -> None:
        """Drops everything that was computed with other weights."""
        versions = [(id(tensor), tensor._version) for tensor in (*encoder.parameters(), *encoder.buffers())]
        if versions != self._versions:
            digest = encoder_digest(encoder)
            if digest != self._digest:
                self._rows, self._room, self._digest = {}, self.max_bytes, digest
            self._versions = versions


def encoder_digest(encoder: PreTrainedModel) -> str:
    """A digest of an encoder's configuration and weights, which determine its features."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in _ORIGIN}
    content = json.dumps(config, sort_keys=True, default=str) + weights_digest(encoder.state_dict())
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def default_folder() -> Path:
    """The folder for files of features in the user's cache.

    Raises:
        ConfigError: for a user without a home, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise ConfigError("data.text_feature_cache_dir: must be set for a user without a home folder")
    return Path(base) / "t2ireid_plugin" / "text_features"


def _encode(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Iterator[Rows]:
    """Features ``[length, D]`` of each text."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        with torch.no_grad(), torch.autocast(encoder.device.type, enabled=False):
            features = encode_texts(encoder, part, pad).half().cpu().numpy()
        for rows in np.split(features, np.cumsum([len(ids) for ids in part])[:-1]):
            yield rows.copy()


def _open(path: Path) -> Any:
    """The array in a file, mapped into memory; None where the file is missing or damaged."""
    try:
        with open(path, "rb") as stream:
            digest = stream_digest(stream, path.stat().st_size - DIGEST_LENGTH)
            if stream.read() != digest:
                return None
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError):
        return None
