"""Writes a `T2IReIDModel` as ONNX graphs with free batch and text length, checked against PyTorch.

===============  ================================================  ===================================================
file             inputs                                            output ``embeds``
===============  ================================================  ===================================================
``image.onnx``   ``pixel_values [B, 3, H, W]``, normalised         ``[B, 256]`` of the identity branch; with a ranking
                                                                   by both ``[B, 512]``, the clothing branch after it
``text.onnx``    ``input_ids``, ``attention_mask [n, L]``          ``[n, 256]``
``fusion.onnx``  ``image_embeds``, ``text_embeds``, as the         ``[B, 256]``, or ``[B, 512]`` of both branches
                 images' output
===============  ================================================  ===================================================

Beside them are ``tokenizer.json`` (which pads and truncates), ``preprocess.json`` and ``onnx.json``. With a ranking by
both branches, `Ranking.parts` splits a caption, and each part passes ``text.onnx``. A model without fusion, or whose
fusion reads tokens, has no ``fusion.onnx``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from t2ireid_plugin.errors import DependencyError, EncoderError
from t2ireid_plugin.modeling.checkpoint import weights_digest
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_to_json
from t2ireid_plugin.modeling.ranking import BOTH
from t2ireid_plugin.modeling.settings import EMBED_DIM, ONNX_FORMAT
from t2ireid_plugin.modeling.stored import preprocess_entry
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.text import first_line

MAX_DIFFERENCE = 1e-4
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_BATCHES = (1, 2, 3, 8)  # sizes that are compared
_SHORTEST = 3  # tokens of a text: two special ones and a word


class ImageSide(nn.Module):
    """``pixel_values [B, 3, H, W]`` to the embeddings by which the model ranks, ``[B, 256]`` or ``[B, 512]``."""

    name = "image"
    axes: tuple[dict[int, str], ...] = ({0: "batch"},)  # free ones of each input

    def __init__(self, model: T2IReIDModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Each half has unit norm."""
        return torch.cat(self.model.encode_branches(pixel_values), dim=1)

    def examples(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Inputs, and the output that PyTorch has for them."""
        preprocess = self.model.preprocess
        for size in _BATCHES:
            images = torch.randn(size, 3, preprocess.height, preprocess.width, generator=_generator(size))
            yield {"pixel_values": images}, self(images)


class TextSide(ImageSide):
    """``input_ids`` and ``attention_mask [n, L]``, 1 for tokens and 0 for padding, to ``[n, 256]``."""

    name, axes = "text", ({0: "batch", 1: "length"},) * 2

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
        """One text per row."""
        return self.model.encode_padded(input_ids, attention_mask)

    def examples(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """As `ImageSide.examples`, with every length; the output is that of texts packed into rows."""
        cache, vocabulary = self.model.text_cache, self.model.text_encoder.config.vocab_size
        lengths = iter([cache.max_length] * 12 if cache.attends_padding else range(_SHORTEST, cache.max_length + 1))
        for size in itertools.cycle(_BATCHES):
            if not (own := list(itertools.islice(lengths, size))):
                return
            texts = [torch.randint(vocabulary, (n,), generator=_generator(n)).tolist() for n in own]
            mask = torch.tensor([[1] * n + [0] * (max(own) - n) for n in own])
            ids = torch.tensor([text + [cache.pad] * (max(own) - len(text)) for text in texts])
            yield {"input_ids": ids, "attention_mask": mask}, self.model.encode_ids([tuple(text) for text in texts])


class FusionSide(ImageSide):
    """``image_embeds`` and ``text_embeds`` as the other sides give them to the output of `T2IReIDModel.fuse`."""

    name, axes = "fusion", ({0: "batch"},) * 2

    def forward(self, image_embeds: Tensor, text_embeds: Tensor) -> Tensor:  # type: ignore[override]
        """A fusion of one branch reads the identity halves."""
        halves = zip(image_embeds.split(EMBED_DIM, dim=1), text_embeds.split(EMBED_DIM, dim=1))
        return self.model.fuse(*(half for pair in halves for half in pair))[0]

    def examples(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """As `ImageSide.examples`."""
        width = EMBED_DIM * (2 if self.model.ranking.by == BOTH else 1)
        for size in _BATCHES:
            image, text = torch.randn(2, size, width, generator=_generator(size)) / EMBED_DIM**0.5
            yield {"image_embeds": image, "text_embeds": text}, self(image, text)


def write_onnx(model: T2IReIDModel, folder: Path, sum_weight: float = 1.0) -> dict[str, Any]:
    """Writes the files above into an existing folder; returns the content of ``onnx.json``.

    Args:
        model: in eval mode and on the CPU.
        folder: receives the files.
        sum_weight: of the sentence in the sum that stands in for a missing fusion, see `evaluation.protocols`.

    Raises:
        DependencyError: without onnx, onnxscript or onnxruntime.
        EncoderError: for a model with token selection, a tokenizer without a JSON form, an encoder that cannot be
            exported, and a graph that differs from PyTorch by more than 1e-4.
    """
    if model.token_selection is not None:
        raise EncoderError(
            "model.token_selection reads the attention of CLIP's last block, which an ONNX graph of this package does "
            "not have; use the run, or its export without --onnx"
        )
    versions = _versions()
    sides = [ImageSide(model), TextSide(model), *([FusionSide(model)] if can_fuse(model) else [])]
    files: dict[str, Any] = {}
    with torch.no_grad():
        _tokenizer(model).save(str(folder / "tokenizer.json"))
        for side in sides:
            file = folder / f"{side.name}.onnx"
            files[file.name] = {**_export(side.eval(), file), "max_difference": _difference(side, file)}
    _write_json(preprocess_entry(model.preprocess), folder / "preprocess.json")
    about = {
        "format": ONNX_FORMAT,
        "fingerprint": fingerprint(model),
        "weights": weights_digest(model.state_dict()),
        "ranking": model.ranking._asdict(),
        "sum_weight": sum_weight,
        "dim": model.score_dim,
        "attends_padding": model.text_cache.attends_padding,
        "files": files,
        "versions": versions,
    }
    _write_json(about, folder / "onnx.json")
    return about


def can_fuse(model: T2IReIDModel) -> bool:
    """True for a fusion of embeddings, of the branches by which the model ranks."""
    return (
        model.fusion is not None and not model.fuses_tokens and (not model.fuses_branches or model.ranking.by == BOTH)
    )


def fingerprint(model: T2IReIDModel) -> str:
    """Digest of all that an image's vector depends on, and a query's: equal for a run, its exports and its ONNX files.

    The weight of the branches is not part of it, as it scales a query only.
    """
    tokenizer = json.loads(_tokenizer(model).to_str())
    ranking = model.ranking.by, model.ranking.clothing
    content = [weights_digest(model.state_dict()), preprocess_entry(model.preprocess), tokenizer, ranking]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _tokenizer(model: T2IReIDModel) -> Tokenizer:
    """The tokenizer, padding and truncating as `CachedTokenizer`."""
    cache = model.text_cache
    tokenizer_to_json(cache.tokenizer)  # refuses one that has no JSON form
    tokenizer = Tokenizer.from_str(cache.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(cache.max_length)
    pad = cache.tokenizer.pad_token or tokenizer.id_to_token(cache.pad)
    tokenizer.enable_padding(
        pad_id=cache.pad, pad_token=pad, length=cache.max_length if cache.attends_padding else None
    )
    return tokenizer


def _export(side: ImageSide, file: Path) -> dict[str, Any]:
    """Writes the graph of a side; returns its opset and the shapes of its inputs and its output."""
    import onnx

    inputs, _ = next(
        itertools.islice(side.examples(), 2, None)
    )  # of a batch of one, the exporter would make a constant
    kind = type(side.model.visual_encoder if side.name == "image" else side.model.text_encoder).__name__
    free = tuple({axis: torch.export.Dim(name) for axis, name in axes.items()} for axes in side.axes)
    try:
        with _quiet():
            torch.onnx.export(
                side,
                tuple(inputs.values()),
                str(file),
                input_names=list(inputs),
                output_names=["embeds"],  # not "embedding", which is the name of a node of BERT
                dynamic_shapes=free,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises errors of many types
        raise EncoderError(
            f"{file.name}: {kind} cannot be exported to ONNX: {first_line(error.__cause__ or error)}"
        ) from error
    model = onnx.load(str(file), load_external_data=False)
    values = [*model.graph.input, *model.graph.output]
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    for name, axes in zip([*inputs, "embeds"], [*side.axes, {0: "batch"}]):
        if fixed := [axis for axis in axes if not isinstance(shapes[name][axis], str)]:
            raise EncoderError(
                f"{file.name}: {kind} fixes axis {fixed[0]} of {name} {shapes[name]}, which must be free"
            )
    return {"opset": model.opset_import[0].version, "shapes": shapes}


def _difference(side: ImageSide, file: Path) -> float:
    """The largest difference between onnxruntime and PyTorch over the side's examples."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for inputs, expected in side.examples():
        (output,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        largest = max(largest, (torch.from_numpy(output) - expected).abs().max().item())
    if not largest <= MAX_DIFFERENCE:
        raise EncoderError(f"{file.name}: differs from PyTorch by {largest:.1e}, more than {MAX_DIFFERENCE:g}")
    return largest


def _versions() -> dict[str, str]:
    try:
        return {name: version(name) for name in _PACKAGES}
    except PackageNotFoundError as error:
        raise DependencyError(f"export to ONNX needs {error.name}; pip install onnx onnxscript onnxruntime") from error


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporter's remarks on its own passes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
