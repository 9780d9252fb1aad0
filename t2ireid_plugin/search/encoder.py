"""`Encoder`: sentences and photos to the vectors that a search compares, by PyTorch or, without it, by onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import CheckpointError, ConfigError, InputError
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess
from t2ireid_plugin.modeling.ranking import BOTH, Ranking
from t2ireid_plugin.utils.atomic_io import atomic_folder
from t2ireid_plugin.utils.progress import show_progress

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from t2ireid_plugin.data.images import Pixels

Vectors: TypeAlias = npt.NDArray[np.float32]
Photo: TypeAlias = "str | Path | Image.Image | Pixels | Tensor"  # pixels: [H, W, 3] RGB; tensor: [3, H, W]

ABOUT = "onnx.json"
_HUB_FILES = ("*.json", "*.safetensors", "*.onnx")
_LONG = 100  # photos or sentences from which on progress is shown


class About(NamedTuple):
    """Everything about a model that a search needs besides its graphs."""

    fingerprint: str
    ranking: Ranking
    preprocess: Preprocess
    sum_weight: float  # of the sentence in the sum of a photo and a sentence, where they are not fused
    dim: int  # of a text's embedding, and of each branch's of an image


class Sides(Protocol):
    """The parts of a model, from arrays to arrays; all embeddings have unit norm."""

    def embed_images(self, pixels: Vectors) -> Vectors:
        """``[B, 3, H, W]`` normalised, to ``[B, 256]`` or, ranking by both branches, ``[B, 512]``."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """``n`` texts to ``[n, 256]``."""

    def fuse(self, images: Vectors, texts: Vectors) -> Vectors | None:
        """Pairs ``[B, 256]`` or ``[B, 512]`` to one of these widths; None where the model does not fuse."""

    def save(self, folder: Path) -> None:
        """Writes the files of `modeling.onnx_export` into an existing folder."""


class Encoder:
    """Embeds sentences and photos so that an inner product is the score by which the model ranks.

    A stored vector is the identity embedding ``[256]``, or with a ranking by both branches ``[512]``, the identity and
    the clothing embedding side by side, each of unit norm. A query's halves are scaled by the weights of the branches,
    so that another weight needs no other vectors.

    Attributes:
        fingerprint: digest of the weights, the preprocessing, the tokenizer and the branches.
        dim: width of the vectors.
        preprocess: size of the images, and mean and standard deviation of their normalisation.
        ranking: ``caption`` or ``both``.
        weight: of the identity branch; None with one branch.
    """

    def __init__(self, sides: Sides, about: About) -> None:
        self.sides, self.about = sides, about
        self.fingerprint, self.ranking, self.preprocess = about.fingerprint, about.ranking.by, about.preprocess
        self.dim = about.dim * (2 if self.ranking == BOTH else 1)
        self.weight = about.ranking.weight if self.ranking == BOTH else None

    @classmethod
    def load(cls, source: str | Path, device: str | None = None) -> Encoder:
        """A trained model, ready for use; the same as ``t2ireid_plugin.load``.

        Args:
            source: a run's folder, a checkpoint, an exported folder, a folder of ONNX files (which needs neither
                PyTorch nor transformers), or the id ``owner/name`` of an exported folder on the Hugging Face hub.
            device: such as "cpu" or "cuda:1"; by default a GPU where there is one.

        Raises:
            T2IReIDError: when there is no model, or it is damaged or does not describe itself.
            ConfigError: for a device that cannot be used.
        """
        folder = _local(source)
        if (folder / ABOUT).is_file():
            from t2ireid_plugin.search.onnx_sides import open_onnx

            return cls(*open_onnx(folder, device))
        from t2ireid_plugin.search.torch_sides import open_model  # on use, as it imports PyTorch

        return cls(*open_model(_weights_file(folder), device))

    def save(self, folder: str | Path) -> None:
        """Writes the model as ONNX files, which `load` reads; an older folder of them is replaced.

        Raises:
            T2IReIDError: as `modeling.onnx_export.write_onnx`, and for a folder that holds anything else.
        """
        out = Path(os.path.realpath(folder))
        if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / ABOUT).is_file())):
            raise ConfigError(f"'{out}' holds something other than ONNX files of a model; choose another folder")
        with atomic_folder(out, "OUT") as draft:
            self.sides.save(draft)

    def read(self, photo: Photo) -> Pixels:
        """A photo at the model's size, ``[H, W, 3]``, which `encode_images` takes as well.

        Raises:
            DataError: for a file that is missing, damaged or not an image.
            InputError: for a folder, and anything but a photo.
        """
        from PIL import Image, ImageOps

        from t2ireid_plugin.data import images  # on use, as a sentence needs no OpenCV

        if isinstance(photo, (str, os.PathLike)):
            if os.path.isdir(photo):
                raise InputError(f"'{photo}' is a folder; give a list of its files")
            photo = images.read_pixels(photo)
        elif isinstance(photo, Image.Image):
            photo = np.array(images.on_white(ImageOps.exif_transpose(photo)))
        elif _is_tensor(photo):
            photo = np.moveaxis(photo.cpu().numpy(), 0, -1)
        # Without pixels: a detector's box outside the frame, cut out of it.
        if not isinstance(photo, np.ndarray) or photo.dtype != np.uint8 or photo.shape[2:] != (3,) or not photo.size:
            kind = f"{photo.dtype} {list(photo.shape)}" if isinstance(photo, np.ndarray) else type(photo).__name__
            raise InputError(f"photos must be paths, Pillow images or uint8 arrays [H, W, 3] of RGB, not {kind}")
        return images.resize(photo, self.preprocess.height, self.preprocess.width)

    def encode_images(self, photos: Iterable[Photo] | Photo, batch_size: int = 64, progress: bool = True) -> Vectors:
        """Photos to vectors to store: a list to ``[n, dim]``, a single photo to ``[dim]``.

        Args:
            photos: paths, Pillow images or uint8 arrays ``[H, W, 3]`` of RGB, of any size; or, as for torchreid's
                ``FeatureExtractor``, a tensor ``[B, 3, H, W]`` of floating point that has the size and normalisation
                of ``preprocess``. A tensor of uint8 holds RGB of any size.
            batch_size: photos that pass the model at once.
            progress: of a hundred photos or more, report it on standard error.

        Raises:
            DataError: as `read`.
            InputError: as `read`, and for a tensor of floating point of another size.
        """
        given: Any = photos
        single = isinstance(given, str) or not hasattr(given, "__iter__") or getattr(given, "ndim", 0) in (2, 3)
        items = [given] if single else list(given)

        def embed() -> Iterator[Vectors]:
            with ThreadPoolExecutor() as threads:  # OpenCV decodes without Python's lock
                for batch in _batches(items, batch_size):
                    yield from self.sides.embed_images(np.stack(list(threads.map(self._pixels, batch))))

        vectors = _collect(embed(), len(items), "photo", progress).reshape(-1, self.dim)
        return vectors[0] if single else vectors

    def encode_texts(
        self,
        texts: Iterable[str] | str,
        weight: float | None = None,
        batch_size: int = 64,
        progress: bool = True,
    ) -> Vectors:
        """Sentences to queries: a list to ``[n, dim]``, a single sentence to ``[dim]``.

        Args:
            texts: the sentences.
            weight: of the identity branch, by default the model's.
            batch_size: sentences that pass the model at once.
            progress: of a hundred sentences or more, report it on standard error.

        Raises:
            InputError: for an empty sentence.
            ConfigError: for a weight that is not from 0 to 1, or with a model that ranks by one branch.
        """
        roots = self._roots(weight)
        items = [texts] if isinstance(texts, str) else list(texts)
        queries = self._texts(items, batch_size, progress) * roots**2
        return queries[0] if isinstance(texts, str) else queries

    def encode_query(
        self,
        text: str | None = None,
        image: Photo | None = None,
        minus: str | None = None,
        weight: float | None = None,
    ) -> Vectors:
        """One query ``[dim]``: a sentence, a photo, or both fused as evaluation's ``ti2i`` does.

        With ``minus``, the score is that of the query less that of this sentence.

        Raises:
            InputError: without a sentence and a photo; also as `encode_texts` and `read`.
        """
        roots = self._roots(weight)
        images = None if image is None else self.encode_images([image])
        texts = None if text is None else self._texts([text])
        if images is not None and texts is not None:
            query = self._fuse(images, texts, roots)
        elif images is not None:
            query = images * roots**2
        elif texts is not None:
            query = texts * roots**2
        else:
            raise InputError("a query needs a sentence or a photo")
        return (query if minus is None else query - self.encode_texts([minus], weight))[0]

    def _pixels(self, photo: Photo) -> Vectors:
        """A photo as the model reads it, ``[3, H, W]``."""
        from t2ireid_plugin.data.images import normalise

        height, width, mean, std = self.preprocess
        if not (_is_tensor(photo) and photo.is_floating_point()):
            return normalise(self.read(photo), mean, std)
        if photo.shape != (3, height, width):
            raise InputError(
                f"a tensor of floating point must hold normalised photos [B, 3, {height}, {width}], not "
                f"{['B', *photo.shape]}; one of uint8, and paths, may have any size"
            )
        return photo.detach().float().cpu().numpy()

    def _texts(self, texts: Sequence[str], batch_size: int = 64, progress: bool = True) -> Vectors:
        """Embeddings of each branch's part of the sentences ``[n, dim]``; zero where a sentence lacks a part."""
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str) or not text.strip():
                problem = "is empty" if isinstance(text, str) else f"must be a string, not {type(text).__name__}"
                raise InputError(f"sentence {number} {problem}")
        if not texts:
            return np.empty((0, self.dim), np.float32)
        ranking = self.about.ranking
        sides = ranking.parts(texts) if self.ranking == BOTH else (list(texts),)
        distinct = list(dict.fromkeys(part for side in sides for part in side))
        rows = (row for batch in _batches(distinct, batch_size) for row in self.sides.embed_texts(batch))
        embeds = _collect(rows, len(distinct), "sentence", progress)
        place = {part: i for i, part in enumerate(distinct)}
        halves = [embeds[[place[part] for part in side]] for side in sides]
        if self.ranking == BOTH:
            present = np.array(ranking.present(texts), np.float32)
            halves = [half * present[:, i : i + 1] for i, half in enumerate(halves)]
        return np.concatenate(halves, axis=1)

    def _fuse(self, images: Vectors, texts: Vectors, roots: Vectors) -> Vectors:
        """Queries of photos with sentences, as `evaluation.protocols` builds those of ``ti2i`` and ``ti2i_sum``."""
        fused = self.sides.fuse(images, texts)
        if fused is None:
            return _unit(images * roots + self.about.sum_weight * texts * roots) * roots
        if fused.shape[1] == self.dim:
            return (_unit(fused * roots) if self.ranking == BOTH else fused) * roots
        # The fusion reads the identity branch only.
        clothing = _unit(images[:, self.about.dim :] + self.about.sum_weight * texts[:, self.about.dim :])
        return np.concatenate([fused, clothing], axis=1) * roots**2

    def _roots(self, weight: float | None) -> Vectors:
        """The roots of the branches' weights, for each entry of a vector ``[dim]``; the gallery has the other root."""
        if self.weight is None:
            if weight is not None:
                raise ConfigError("weight: this model ranks by one branch, so there is nothing to weigh")
            return np.ones(self.dim, np.float32)
        weight = self.weight if weight is None else weight
        if not 0 <= weight <= 1:
            raise ConfigError(f"weight: {weight} must be a number from 0 to 1")
        return np.repeat(np.sqrt(np.array([weight, 1 - weight], np.float32)), self.about.dim)


def _local(source: str | Path) -> Path:
    """The path itself, or the local copy of a model on the hub; the owner of a hub id is not a folder here."""
    path, owner = Path(os.path.expanduser(source)), str(source).partition("/")[0]
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or Path(owner).exists():
        return path
    from t2ireid_plugin.modeling.encoders.loading import download

    return download(str(source), _HUB_FILES)


def _weights_file(source: Path) -> Path:
    """The weights of a run's folder or an export's, or the file itself."""
    names = ("best.pth", "model.safetensors")
    file = next((source / name for name in names if (source / name).is_file()), source)
    if not file.is_file():
        what = f"has none of {', '.join((*names, ABOUT))}" if source.is_dir() else "does not exist"
        raise CheckpointError(f"no model: '{source}' {what}; name a run, a checkpoint or an exported folder")
    return file


def _collect(rows: Iterable[Vectors], total: int, unit: str, progress: bool) -> Vectors:
    return np.array(list(show_progress(rows, total, "embedding", unit, progress and total >= _LONG)), np.float32)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    if size < 1:
        raise InputError(f"batch_size: {size} must be at least 1")
    return (items[start : start + size] for start in range(0, len(items), size))


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _is_tensor(photo: Any) -> TypeGuard[Tensor]:
    return hasattr(photo, "is_floating_point")  # without importing PyTorch


load = Encoder.load
