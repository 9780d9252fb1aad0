"""Workloads of the model benchmark: bare encoders, literal transcription and model, on the same inputs.

All contenders share encoders of the sizes of ViT-B/16 and BERT-base with random weights, so nothing is downloaded. Run
as a module, it measures the peak memory of one contender's training steps in a new process.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, ViTConfig

from benchmarks.literal import LiteralModel
from benchmarks.machine import memory_peak, memory_used, reset_memory_peak
from t2ireid_plugin.engine.feature_cache import TextFeatureCache
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel, T2IReIDOutput

BARE, LITERAL, OURS, CACHED = "bare", "literal", "ours", "cached"
Work = Mapping[str, Callable[[], Any]]  # by contender
# Bytes per trained parameter: the weight, its gradient and AdamW's two averages, in float32.
_PARAMETER_BYTES = 16

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_SMALL = {"hidden_size": 384, "intermediate_size": 1536}
SIZES: dict[str, dict[str, Any]] = {
    "base": {"image": {}, "text": {}, "classes": 8000},
    # As DINOv2-S and MiniLM-L6.
    "small": {
        "image": {**_SMALL, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14},
        "text": {**_SMALL, "num_hidden_layers": 6, "num_attention_heads": 12},
        "classes": 100,
    },
    "tiny": {"image": {**_TINY, "image_size": 32}, "text": _TINY, "classes": 16},
}
# CUHK-PEDES has 12 to 96 words per caption, 23.5 on average (Li et al., CVPR 2017); the spread is our assumption.
_MEAN_WORDS, _SPREAD, _MIN_WORDS, _MAX_WORDS = 23.5, 0.35, 12, 96
_CLOTHING_SHARE = 0.5  # of a caption's words
_VOCABULARY = """
    a the man woman young tall with short long black brown hair is wearing red blue white grey jacket shirt dress
    jeans trousers skirt shoes sneakers boots and carrying backpack handbag on her his shoulder in left right hand
    walking away from camera striped dark light over green yellow hat glasses"""
_MAX_DIFFERENCE = 1e-4
_CACHE_BYTES = 10**9


class Bench(NamedTuple):
    """Both models over the same encoders."""

    model: T2IReIDModel
    literal: LiteralModel
    classes: int

    def images(self, number: int, size: tuple[int, int] | None = None) -> Tensor:
        """``[number, 3, H, W]``, of the encoder's size by default."""
        height, width = size or self.model.preprocess[:2]
        images = torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(number))
        return images.to(self.model.device)


def build(size: str = "base", seed: int = 0) -> Bench:
    """Builds both models, with norms and biases off their initial values, where a mistake could go unnoticed."""
    torch.manual_seed(seed)
    sizes = SIZES[size]
    model = T2IReIDModel(
        {
            "vit_pretrained": ViTConfig(**sizes["image"]),
            "bert_base_path": BertConfig(**sizes["text"]),  # with all its 30,522 words, most of them unused
            "tokenizer": learn_wordpiece([f"{_VOCABULARY} , .", f", . {_VOCABULARY}"]),  # each word a token
            "num_classes": sizes["classes"],
        }
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    return Bench(model, LiteralModel(model).eval(), sizes["classes"])


def captions(number: int, share: float = 1.0, seed: int = 0) -> list[str]:
    """Sentences as long as CUHK-PEDES's, or a ``share`` of that, a comma after every eight words and a full stop."""
    source = random.Random(seed)
    middle = math.log(_MEAN_WORDS) - _SPREAD**2 / 2
    drawn = (min(_MAX_WORDS, max(_MIN_WORDS, source.lognormvariate(middle, _SPREAD))) for _ in range(number))
    return [_sentence(round(share * words), source) for words in drawn]


def sentences(number: int, words: int) -> list[str]:
    """Sentences of one length."""
    source = random.Random(words)
    return [_sentence(words, source) for _ in range(number)]


def _sentence(words: int, source: random.Random) -> str:
    chosen = source.choices(_VOCABULARY.split(), k=words)
    return " , ".join(" ".join(chosen[i : i + 8]) for i in range(0, words, 8)) + " ."


def clothing(number: int) -> list[str]:
    """Clothing texts of as many people."""
    return captions(number, _CLOTHING_SHARE, seed=1)


@torch.no_grad()
def check_agreement(bench: Bench, number: int = 4) -> float:
    """Largest difference between the outputs of both models.

    Raises:
        DataError: when it is above 1e-4; then they are different models, whose cost cannot be compared.
    """
    inputs = bench.images(number), clothing(number), captions(number)
    outputs = bench.model(*inputs), bench.literal(*inputs)
    encoded = [(m.encode_image(inputs[0]), m.encode_text(inputs[2])) for m in (bench.model, bench.literal)]
    names = (*T2IReIDOutput._fields, "encode_image", "encode_text")
    largest = 0.0
    for name, ours, theirs in zip(names, (*outputs[0], *encoded[0]), (*outputs[1], *encoded[1]), strict=True):
        difference = float((ours - theirs).abs().max())
        if not difference <= _MAX_DIFFERENCE:
            raise DataError(f"the model and the literal transcription differ by {difference:.1e} in {name}")
        largest = max(largest, difference)
    return largest


def image_work(bench: Bench, number: int, size: tuple[int, int] | None = None) -> Work:
    """Encoding of images; the bare encoder stops at the ViT's tokens."""
    images = bench.images(number, size)
    other_size = {"interpolate_pos_encoding": True} if size else {}
    return _without_gradient(
        {
            BARE: lambda: bench.model.visual_encoder(images, **other_size),
            LITERAL: lambda: bench.literal.encode_image(images),
            OURS: lambda: bench.model.encode_image(images),
        }
    )


def text_work(bench: Bench, texts: list[str]) -> Work:
    """Encoding of texts; the bare encoder stops at BERT's tokens, padded to the longest text."""
    encoded = bench.literal.tokenizer(
        texts, padding="longest", max_length=bench.literal.max_length, truncation=True, return_tensors="pt"
    )
    ids, mask = (encoded[name].to(bench.model.device) for name in ("input_ids", "attention_mask"))
    return _without_gradient(
        {
            BARE: lambda: bench.model.text_encoder(input_ids=ids, attention_mask=mask),
            LITERAL: lambda: bench.literal.encode_text(texts),
            OURS: lambda: bench.model.encode_text(texts),
        }
    )


def training_work(bench: Bench, number: int, folder: Path | None = None) -> dict[str, Step]:
    """Training steps on images with captions and clothing texts; the bare encoder is the ViT on images alone.

    With the cache BERT encodes the texts in the first step only, or before it into ``folder``. Both models are put into
    training mode here and stay in it, as in an epoch: the cache checks BERT's weights at its start.
    """
    images, identity, clothes = bench.images(number), captions(number), clothing(number)
    rows = torch.arange(number, device=images.device)

    def loss(output: T2IReIDOutput) -> Tensor:
        pairs = (
            (output.image_embeds, output.id_text_embeds),
            (output.cloth_image_embeds, output.cloth_text_embeds),
            (output.fused_embeds, output.image_embeds),
        )
        total = F.cross_entropy(cast(Tensor, output.id_logits), rows % bench.classes)
        for ours, theirs in cast(tuple[tuple[Tensor, Tensor], ...], pairs):
            total = total + F.cross_entropy(20 * ours @ theirs.T, rows)
        return total

    model, literal, vit = bench.model.train(), bench.literal.train(), bench.model.visual_encoder
    features = TextFeatureCache(_CACHE_BYTES)
    if folder is not None:
        ids, pad = model.text_cache.ids([*clothes, *identity]), model.text_cache.pad
        features = TextFeatureCache.on_disk(folder, _CACHE_BYTES, model.text_encoder, ids, pad)

    def cached() -> Tensor:
        model.text_features = features
        output = model(images, clothes, identity)
        model.text_features = None
        return loss(output)

    return {
        BARE: Step(vit, lambda: vit(images).last_hidden_state.square().mean()),
        LITERAL: Step(literal, lambda: loss(literal(images, clothes, identity))),
        OURS: Step(model, lambda: loss(model(images, clothes, identity))),
        CACHED: Step(model, cached),
    }


class Step:
    """One training step of ``module`` with the same optimizer for all contenders."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.loss = loss
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6, fused=True)

    def __call__(self) -> None:
        """Runs forward, backward and the optimizer step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # the next contender shares the parameters

    def kept(self) -> int:
        """Bytes that autograd saves in the forward pass, without parameters."""
        parameters = {p.untyped_storage().data_ptr() for p in self.trained}
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.loss()
        return sum(sizes.values())


def _without_gradient(work: Work) -> Work:
    return {name: torch.no_grad()(call) for name, call in work.items()}


def measure_memory(size: str, contender: str, batch: int, steps: int = 2) -> dict[str, int]:
    """Memory of one contender's training steps in bytes; run in a new process.

    Returns:
        ``bytes``, the peak beyond that of the libraries; ``parameters``, the size of the trained ones with their
        gradients and averages; and ``kept``, what autograd saves in a forward pass.
    """
    training_work(build("tiny"), 2)[contender]()  # warms up
    before = memory_used()
    reset_memory_peak()
    bench = build(size)
    with tempfile.TemporaryDirectory() as folder:
        step = training_work(bench, batch, Path(folder) if contender == CACHED else None)[contender]
        del bench  # frees what only the other contenders need
        for _ in range(steps):
            step()
        peak = memory_peak() - before
        return {
            "bytes": peak,
            "parameters": _PARAMETER_BYTES * sum(p.numel() for p in step.trained),
            "kept": step.kept(),
        }


if __name__ == "__main__":
    print(json.dumps(measure_memory(**json.loads(sys.argv[1]))))
