"""`Encoder`: sentences and photos to the vectors that a search compares, by PyTorch or, without it, by onnxruntime."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import CheckpointError, ConfigError, DependencyError, InputError, T2IReIDError
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess, checked_preprocess
from t2ireid_plugin.modeling.ranking import BOTH, Ranking
from t2ireid_plugin.modeling.settings import EMBED_DIM, ONNX_FORMAT
from t2ireid_plugin.utils.atomic_io import atomic_folder

if TYPE_CHECKING:
    from PIL import Image

    from t2ireid_plugin.data.images import Pixels

Vectors: TypeAlias = npt.NDArray[np.float32]
Photo: TypeAlias = "str | Path | Image.Image | Pixels"  # pixels: [H, W, 3] RGB

ABOUT = "onnx.json"
_IMAGES_AT_ONCE, _TEXTS_AT_ONCE = 64, 64


class About(NamedTuple):
    """Everything about a model that a search needs besides its graphs."""

    fingerprint: str
    ranking: Ranking
    preprocess: Preprocess
    sum_weight: float  # of the sentence in the sum of a photo and a sentence, where they are not fused


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
        ranking: ``caption`` or ``both``.
        weight: of the identity branch; None with one branch.
    """

    def __init__(self, sides: Sides, about: About) -> None:
        self.sides, self.about = sides, about
        self.fingerprint, self.ranking = about.fingerprint, about.ranking.by
        self.dim = EMBED_DIM * (2 if self.ranking == BOTH else 1)
        self.weight = about.ranking.weight if self.ranking == BOTH else None

    @classmethod
    def load(cls, source: str | Path) -> Encoder:
        """The encoder of a run's folder, a checkpoint, an exported folder, or a folder of ONNX files.

        The last needs neither PyTorch nor transformers.

        Raises:
            T2IReIDError: when there is no model, or it is damaged or does not describe itself.
        """
        folder = Path(source)
        if (folder / ABOUT).is_file():
            return cls(*_open_onnx(folder))
        from t2ireid_plugin.search.torch_sides import open_model  # on use, as it imports PyTorch

        return cls(*open_model(_weights_file(folder)))

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
        """
        from t2ireid_plugin.data import images  # on use, as a sentence needs no OpenCV

        if isinstance(photo, (str, os.PathLike)):
            photo = images.read_pixels(photo)
        elif not isinstance(photo, np.ndarray):
            photo = np.array(images.on_white(photo))
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise InputError(f"photos must be uint8 arrays [H, W, 3] of RGB, not {photo.dtype} {list(photo.shape)}")
        return images.resize(photo, self.about.preprocess.height, self.about.preprocess.width)

    def encode_images(self, photos: Sequence[Photo]) -> Vectors:
        """Files, Pillow images or RGB arrays to vectors to store, ``[n, dim]``.

        Raises:
            DataError: as `read`.
        """
        from t2ireid_plugin.data.images import normalise

        _, _, mean, std = self.about.preprocess

        def pixels(photo: Photo) -> Vectors:
            return normalise(self.read(photo), mean, std)

        parts = [np.empty((0, self.dim), np.float32)]
        with ThreadPoolExecutor() as threads:  # OpenCV decodes without Python's lock
            for batch in _batches(photos, _IMAGES_AT_ONCE):
                parts.append(self.sides.embed_images(np.stack(list(threads.map(pixels, batch)))))
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str], weight: float | None = None) -> Vectors:
        """Sentences to queries ``[n, dim]``; ``weight`` is that of the identity branch, by default the model's.

        Raises:
            InputError: for an empty sentence.
            ConfigError: for a weight that is not from 0 to 1, or with a model that ranks by one branch.
        """
        roots = self._roots(weight)
        return self._texts(texts) * roots**2

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

    def _texts(self, texts: Sequence[str]) -> Vectors:
        """Embeddings of each branch's part of the sentences ``[n, dim]``; zero where a sentence lacks a part."""
        if empty := [i for i, text in enumerate(texts) if not text.strip()]:
            raise InputError(f"sentence {empty[0] + 1} is empty")
        ranking = self.about.ranking
        sides = ranking.parts(texts) if self.ranking == BOTH else (list(texts),)
        distinct = list(dict.fromkeys(part for side in sides for part in side))
        embeds = np.concatenate([self.sides.embed_texts(batch) for batch in _batches(distinct, _TEXTS_AT_ONCE)])
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
        clothing = _unit(images[:, EMBED_DIM:] + self.about.sum_weight * texts[:, EMBED_DIM:])
        return np.concatenate([fused, clothing], axis=1) * roots**2

    def _roots(self, weight: float | None) -> Vectors:
        """The roots of the branches' weights, for each entry of a vector ``[dim]``; the gallery has the other root."""
        if self.weight is None:
            if weight is not None:
                raise ConfigError("weight: this model ranks by one branch, so there is nothing to weigh")
            return np.ones(EMBED_DIM, np.float32)
        weight = self.weight if weight is None else weight
        if not 0 <= weight <= 1:
            raise ConfigError(f"weight: {weight} must be a number from 0 to 1")
        return np.repeat(np.sqrt(np.array([weight, 1 - weight], np.float32)), EMBED_DIM)


class OnnxSides:
    """`Sides` by onnxruntime; a graph is loaded when it is first used."""

    def __init__(self, folder: Path, attends_padding: bool) -> None:
        from tokenizers import Tokenizer

        self.folder, self.attends_padding = folder, attends_padding
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._sessions: dict[str, Any] = {}

    def embed_images(self, pixels: Vectors) -> Vectors:
        """See `Sides`."""
        return self._run("image", pixel_values=pixels)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """See `Sides`."""
        encoded = self.tokenizer.encode_batch(list(texts))
        ids, mask = (np.array([getattr(e, name) for e in encoded], np.int64) for name in ("ids", "attention_mask"))
        return self._run("text", input_ids=ids, attention_mask=np.ones_like(mask) if self.attends_padding else mask)

    def fuse(self, images: Vectors, texts: Vectors) -> Vectors | None:
        """See `Sides`."""
        if not (self.folder / "fusion.onnx").exists():
            return None
        return self._run("fusion", image_embeds=images, text_embeds=texts)

    def save(self, folder: Path) -> None:
        """See `Sides`."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    def _run(self, side: str, **inputs: npt.NDArray[Any]) -> Vectors:
        if side not in self._sessions:
            self._sessions[side] = _session(self.folder / f"{side}.onnx")
        (embeds,) = self._sessions[side].run(None, inputs)
        return embeds


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(f"'{file}' needs onnxruntime; pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait burn CPU time
    available = [name for name in ("CUDAExecutionProvider",) if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=[*available, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, for a file that is missing or damaged
        raise CheckpointError(f"'{file}' cannot be loaded: {error}") from error


def _open_onnx(folder: Path) -> tuple[OnnxSides, About]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        pixels = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
        if about["format"] > ONNX_FORMAT:
            raise ConfigError(
                f"'{folder / ABOUT}': format {about['format']} is newer than {ONNX_FORMAT}; update t2ireid"
            )
        preprocess = checked_preprocess(**pixels, where=f"'{folder / 'preprocess.json'}'")
        sides = OnnxSides(folder, about["attends_padding"])
        ranking = Ranking.read(about["ranking"])
        return sides, About(about["fingerprint"], ranking, preprocess, about["sum_weight"])
    except T2IReIDError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"'{folder}' is not as export writes it ({error!r}); export the model again") from error


def _weights_file(source: Path) -> Path:
    """The weights of a run's folder or an export's, or the file itself."""
    names = ("best.pth", "model.safetensors")
    file = next((source / name for name in names if (source / name).is_file()), source)
    if not file.is_file():
        what = f"has none of {', '.join((*names, ABOUT))}" if source.is_dir() else "does not exist"
        raise CheckpointError(f"no model: '{source}' {what}; name a run, a checkpoint or an exported folder")
    return file


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
