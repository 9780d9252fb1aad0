"""Caches of the token features of frozen encoders, in memory or in a file that processes share.

Features are stored in half precision, ``2 D`` bytes per token: CUHK-PEDES's 68,126 training captions take about 3 GB
with BERT-base, 10,000 photos of 224 x 112 pixels 1 GB with DINOv2-S. A file is a NumPy array ``[N, D]``, the tokens of
all texts or images one after the other, and a digest of it. Its name is a digest of the encoder's configuration and
weights and of the texts or images, so a file of other weights or content is never read; a damaged one is written again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.modeling.checkpoint import DIGEST_LENGTH, stream_digest, weights_digest
from t2ireid_plugin.modeling.encoders.backbones import ImageTokens, image_tokens
from t2ireid_plugin.modeling.encoders.token_features import TEXTS_AT_ONCE, Ids, encode_texts
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.cache import cache_folder
from t2ireid_plugin.utils.progress import show_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
Rows = npt.NDArray[np.float16]  # [length, D] of one text or image
Key = Ids | str  # token ids of a text, or the digest of an image's pixels
Encode = Callable[[Sequence[Any]], Iterable[Rows]]  # the features of each of some keys

# Entries of an encoder's configuration that do not change its features.
_ORIGIN = ("_name_or_path", "transformers_version", "_commit_hash")


class FeatureCache:
    """Token features by text or image, valid for one set of encoder weights.

    Args:
        max_bytes: limit of the features kept in memory; texts or images beyond it are encoded each time.
    """

    kind: str  # text or image

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = self._room = max_bytes
        self._rows: dict[Key, Rows] = {}
        self._digest = ""  # of the encoder that the rows belong to
        self._versions: list[tuple[int, int]] = []  # of its tensors when they were last read

    def _map_file(
        self,
        folder: Path,
        max_bytes: int,
        encoder: PreTrainedModel,
        width: int,
        lengths: Mapping[Any, int],
        encode: Encode,
    ) -> None:
        """Takes the features from a file in ``folder``, which is written first unless it exists.

        The file is mapped into memory, so that processes share its pages. It may be deleted at any time.

        Args:
            folder: created if needed.
            max_bytes: limit of the file.
            encoder: of the features.
            width: ``D``.
            lengths: number of tokens by key; of more than fit, the last are left out and encoded each time.
            encode: encodes some keys.

        Raises:
            DataError: when the file cannot be written.
        """
        self._follow(encoder)
        ends = np.cumsum(list(lengths.values()), dtype=int)
        ends = ends[2 * width * ends <= max_bytes]
        if not len(ends):
            return
        setting = f"data.{self.kind}_feature_cache"
        chosen, tokens = list(lengths)[: len(ends)], int(ends[-1])
        if len(chosen) < len(lengths):
            logger.warning(
                "%s: %d of %d %ss fit into %s_gb; the others are encoded each time",
                *(setting, len(chosen), len(lengths), self.kind, setting),
            )
        keys_digest = hashlib.blake2b(json.dumps(chosen).encode(), digest_size=8).hexdigest()
        path = folder / f"{self._digest}-{keys_digest}.npy"

        def write(draft: Path) -> None:
            # Not through a memory map, where a full disk kills the process.
            with open(draft, "wb") as stream:
                header = {"descr": "<f2", "fortran_order": False, "shape": (tokens, width)}
                np.lib.format.write_array_header_1_0(stream, header)
                for part in show_progress(encode(chosen), len(chosen), f"{self.kind} features", self.kind):
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
            raise DataError(f"{setting}: cannot use '{folder}' ({reason})") from error
        self._rows = dict(zip(chosen, np.split(features, ends[:-1])))
        logger.info("features of %d %ss in '%s'", len(chosen), self.kind, path)

    def _get(self, encoder: PreTrainedModel, keys: Sequence[Any], encode: Encode) -> Tensor:
        """Features ``[N, D]`` of these keys, one after the other, rounded to half precision."""
        self._follow(encoder)
        missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
        computed = dict(zip(missing, encode(missing)))
        for key, rows in computed.items():
            if rows.nbytes <= self._room:
                self._rows[key] = rows
                self._room -= rows.nbytes
        joined = torch.from_numpy(
            np.concatenate([computed[key] if key in computed else self._rows[key] for key in keys])
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


class TextFeatureCache(FeatureCache):
    """Token features by the token ids of a text; implements `TokenFeatureCache`."""

    kind = "text"

    @classmethod
    def on_disk(
        cls, folder: Path, max_bytes: int, encoder: PreTrainedModel, texts: Iterable[Ids], pad: int
    ) -> TextFeatureCache:
        """A cache of ``texts`` (token ids) in a file, see `_map_file`; of more than fit, the longest are left out.

        Raises:
            DataError: when the file cannot be written.
        """
        cache = cls(0)
        lengths = {ids: len(ids) for ids in sorted(set(texts), key=lambda ids: (len(ids), ids))}
        encode = functools.partial(_encode_texts, encoder, pad)
        cache._map_file(folder, max_bytes, encoder, int(encoder.config.hidden_size), lengths, encode)
        return cache

    def __call__(self, encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
        """Token features ``[N, D]`` as `encode_texts` computes them, rounded to half precision."""
        return self._get(encoder, texts, functools.partial(_encode_texts, encoder, pad))


class ImageFeatureCache(FeatureCache):
    """Image tokens by the pixels that the encoder reads, so that another file, size or normalisation has its own."""

    kind = "image"
    _grid: tuple[int, int] | None = None  # of the patches

    @classmethod
    def on_disk(
        cls, folder: Path, max_bytes: int, encoder: PreTrainedModel, images: Sequence[Callable[[], Tensor]]
    ) -> ImageFeatureCache:
        """A cache of ``images`` in a file, see `_map_file`.

        Args:
            folder: created if needed.
            max_bytes: limit of the file.
            encoder: the image encoder.
            images: each loads one, ``[3, H, W]``.

        Raises:
            DataError: when the file cannot be written.
        """
        cache = cls(0)
        loaders: dict[str, Callable[[], Tensor]] = {}

        def encode(keys: Sequence[str]) -> Iterator[Rows]:
            for key in keys:
                yield _encode_image(encoder, loaders[key]())

        for load in images:
            with contextlib.suppress(DataError):  # training reports an image that cannot be read, or replaces it
                loaders[_digest(load())] = load
        if loaders:
            some = _encode_image(encoder, next(iter(loaders.values()))())
            lengths = dict.fromkeys(loaders, len(some))
            cache._map_file(folder, max_bytes, encoder, some.shape[1], lengths, encode)
        return cache

    def __call__(self, encoder: PreTrainedModel, images: Tensor) -> ImageTokens:
        """Tokens ``[B, L, D]`` of images ``[B, 3, H, W]`` as `image_tokens` has them, rounded to half precision."""
        on_cpu = images.cpu()
        keys = [_digest(image) for image in on_cpu]
        by_key = dict(zip(keys, on_cpu))
        tokens = self._get(encoder, keys, lambda missing: (_encode_image(encoder, by_key[key]) for key in missing))
        if self._grid is None:
            with torch.no_grad():
                self._grid = image_tokens(encoder, images[:1].to(encoder.device)).grid
        return ImageTokens(tokens.unflatten(0, (len(keys), -1)), self._grid)


def encoder_digest(encoder: PreTrainedModel) -> str:
    """A digest of an encoder's configuration and weights, which determine its features."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in _ORIGIN}
    content = json.dumps(config, sort_keys=True, default=str) + weights_digest(encoder.state_dict())
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def default_folder(kind: str) -> Path:
    """The folder for files of text or image features in the user's cache.

    Raises:
        ConfigError: as `cache_folder`.
    """
    return cache_folder(f"{kind}_features", f"data.{kind}_feature_cache_dir")


def _digest(image: Tensor) -> str:
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).hexdigest()


def _encode_image(encoder: PreTrainedModel, image: Tensor) -> Rows:
    """Features of an image ``[3, H, W]``, encoded alone so that they do not depend on a batch."""
    with torch.no_grad(), torch.autocast(encoder.device.type, enabled=False):
        tokens: Rows = image_tokens(encoder, image[None].to(encoder.device)).tokens[0].half().cpu().numpy()
    return tokens


def _encode_texts(encoder: PreTrainedModel, pad: int, texts: Sequence[Ids]) -> Iterator[Rows]:
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
