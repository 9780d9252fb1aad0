"""`T2IReIDModel`: a person image and two descriptions to embeddings, identity logits and a fused embedding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, EncoderError, InputError, check_keys
from t2ireid_plugin.modeling.checkpoint import LoadReport, load_weights
from t2ireid_plugin.modeling.disentangle import build_disentangle
from t2ireid_plugin.modeling.encoders.families import (
    attends_padding,
    image_tokens,
    interpolates_on_request,
    num_prefix_tokens,
    patch_size,
)
from t2ireid_plugin.modeling.encoders.loading import (
    build_image_encoder,
    build_text_encoder,
    build_tokenizer,
)
from t2ireid_plugin.modeling.encoders.packing import PackedBatch
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.encoders.token_features import (
    TEXTS_AT_ONCE,
    Ids,
    TokenFeatureCache,
    encode_texts,
    word_features,
)
from t2ireid_plugin.modeling.encoders.tokenizer import CachedTokenizer
from t2ireid_plugin.modeling.fusion import SequenceMambaFusion, build_fusion, check_fusion_dim
from t2ireid_plugin.modeling.heads import projection_mlp
from t2ireid_plugin.modeling.masking import hide_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SHARED_DIM = 512
EMBED_DIM = 256
NUM_HEADS = 4
INITIAL_SCALE = 1.0

DEFAULT_FUSION: dict[str, Any] = {
    "type": "enhanced_mamba",
    "dim": EMBED_DIM,
    "d_state": 16,
    "d_conv": 4,
    "num_layers": 2,
    "output_dim": EMBED_DIM,
    "dropout": 0.1,
}
DEFAULTS: dict[str, Any] = {
    "bert_base_path": "bert-base-uncased",
    "vit_pretrained": "google/vit-base-patch16-224",
    "num_classes": 8000,
    "disentangle": {"tokens": "all"},
    "fusion": DEFAULT_FUSION,
    "freeze_text": True,
    "max_length": 64,
    "tokenizer": None,
}


class T2IReIDOutput(NamedTuple):
    """What `T2IReIDModel.forward` returns; a field whose input was not given is None.

    The 256-wide embeddings have unit norm; ``id_embeds`` and ``cloth_embeds`` are the gated features before it.
    """

    image_embeds: Tensor | None  # [B, 256] identity branch of the image
    id_text_embeds: Tensor | None  # [B, 256]
    fused_embeds: Tensor | None  # [B, 256]
    id_logits: Tensor | None  # [B, num_classes]
    id_embeds: Tensor | None  # [B, D]
    cloth_embeds: Tensor | None  # [B, D]
    cloth_text_embeds: Tensor | None  # [B, 256]
    cloth_image_embeds: Tensor | None  # [B, 256] clothing branch of the image
    gate: Tensor | None  # [B, D] share of the identity branch, 0..1
    gate_weights: Tensor | None  # [B, 2] image, text; sums to 1


class MaskedPairs(NamedTuple):
    """Images with texts of which some words are hidden, see `T2IReIDModel.forward_masked`."""

    image_tokens: Tensor  # [B, L, D]
    word_tokens: Tensor  # [B, W, D] features of the words, padded at the end
    word_mask: Tensor  # [B, W] 1 for words and 0 for padding
    hidden_words: Tensor  # [B, W] ids of the hidden words, -100 elsewhere


class T2IReIDModel(nn.Module):
    """Text-to-image person re-identification with ViT, BERT, disentangling and Mamba fusion.

    Args:
        net_config: any of
            ``vit_pretrained``, ``bert_base_path``: a folder, a hub id, or a mapping that configures an encoder with
            random weights; both may name one two-tower model such as CLIP, see `modeling.towers`;
            ``tokenizer``: needed with a text encoder from a mapping, else the encoder's own;
            ``num_classes``: training identities; ``disentangle``: ``{tokens, window}``, see `DisentangleModule`;
            ``fusion``: ``{type, dim, d_state, d_conv, num_layers, output_dim, dropout}`` or None;
            ``freeze_text``: the text encoder without gradient and dropout; ``max_length``: tokens a text.

    Raises:
        ConfigError: for an unknown key or a value that cannot work.
        EncoderError: when an encoder's files are missing or do not fit each other.
    """

    text_adapter: nn.Linear | None
    fusion: nn.Module | None

    def __init__(self, net_config: Mapping[str, Any]) -> None:
        super().__init__()
        config = _complete(net_config)
        self.freeze_text: bool = config["freeze_text"]
        self.load_report: LoadReport | None = None
        # What remembers a frozen text encoder's features in training.
        self.text_features: TokenFeatureCache | None = None
        self._compiled_core: Callable[..., tuple[T2IReIDOutput, Tensor | None]] | None = None

        # Text first: a missing tokenizer should not wait for 86 million image parameters.
        tokenizer = config["tokenizer"]
        vocab_size = None if tokenizer is None else len(tokenizer)
        self.text_encoder = build_text_encoder(config["bert_base_path"], vocab_size)
        self.text_cache = self._build_tokenizer(config)
        self.visual_encoder = build_image_encoder(config["vit_pretrained"])
        self.preprocess = image_preprocess(config["vit_pretrained"], self.visual_encoder.config)
        self.num_prefix_tokens = num_prefix_tokens(self.visual_encoder)  # class token and registers
        if config["disentangle"].get("tokens") == "cls" and not self.num_prefix_tokens:
            kind = self.visual_encoder.config.model_type
            raise ConfigError(f"disentangle.tokens: 'cls' needs a class token, which {kind} does not have")

        width: int = self.visual_encoder.config.hidden_size
        text_width: int = self.text_encoder.config.hidden_size
        if text_width != width:
            self.text_adapter = nn.Linear(text_width, width)
        else:
            self.text_adapter = None  # so that the names stay those of the specification
        self.text_width = width

        self.disentangle = build_disentangle(config["disentangle"], width, NUM_HEADS)
        self.id_classifier = nn.Linear(width, config["num_classes"])
        self.shared_mlp = nn.Linear(width, SHARED_DIM)
        self.image_mlp = projection_mlp(SHARED_DIM, EMBED_DIM)
        self.text_mlp = projection_mlp(SHARED_DIM, EMBED_DIM)
        self.text_attn = nn.MultiheadAttention(width, NUM_HEADS, dropout=0.1, batch_first=True)
        self.text_attn_norm = nn.LayerNorm(width)
        self.fusion = None if config["fusion"] is None else build_fusion(config["fusion"], width)
        self.scale = nn.Parameter(torch.full((1,), INITIAL_SCALE))
        if self.freeze_text:
            self.text_encoder.requires_grad_(False).eval()
        logger.info("scale %.4f, fusion %s", INITIAL_SCALE, type(self.fusion).__name__)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.scale.device

    @property
    def fuses_tokens(self) -> bool:
        """Whether the fusion needs images and texts themselves, so that `fuse` cannot be called."""
        return isinstance(self.fusion, SequenceMambaFusion)

    def train(self, mode: bool = True) -> T2IReIDModel:
        """As `nn.Module.train`, but a frozen text encoder stays in eval mode: its dropout would be noise."""
        super().train(mode)
        if self.freeze_text:
            self.text_encoder.eval()
        if self.text_features is not None:
            self.text_features.recheck()
        return self

    def encode_image(self, image: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` (or ``[B, 3, H, W, 1]``) to identity embeddings ``[B, 256]`` of unit norm.

        Raises:
            InputError: for another shape.
        """
        id_embeds, _, _ = self.disentangle(self._image_tokens(image), self._grid(image))
        return self._project(self.image_mlp, id_embeds)[0]

    def encode_text(self, text: str | Sequence[str]) -> Tensor:
        """A string to ``[256]``, a list or tuple of ``n`` strings to ``[n, 256]``, of unit norm.

        Raises:
            InputError: for an empty list, an empty text, or something that is no string.
        """
        embeds = self._project(self.text_mlp, self._text_features(_as_texts(text, "text")))[0]
        return embeds[0] if isinstance(text, str) else embeds

    def fuse(self, image_embeds: Tensor, id_text_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of embeddings ``[B, 256]`` to fused ones ``[B, 256]`` of unit norm and gate weights ``[B, 2]``.

        Raises:
            ConfigError: when the model was built without fusion, or with one that reads tokens, which only `forward`
                has.
        """
        if self.fusion is None:
            raise ConfigError("the model has no fusion (model.fusion)")
        if self.fuses_tokens:
            raise ConfigError("fusion.type sequence_mamba reads tokens, not embeddings; call the model with the pairs")
        fused, gate_weights = self.fusion(image_embeds.to(self.device), id_text_embeds.to(self.device))
        return F.normalize(self.scale * fused, dim=-1), gate_weights

    def forward(
        self,
        image: Tensor | None = None,
        cloth_instruction: str | Sequence[str] | None = None,
        id_instruction: str | Sequence[str] | None = None,
    ) -> T2IReIDOutput:
        """Whatever is given, encoded; image and identity texts together are also fused.

        Args:
            image: ``[B, 3, H, W]`` or ``[B, 3, H, W, 1]``.
            cloth_instruction: ``B`` clothing descriptions (one string counts as a batch of one).
            id_instruction: ``B`` identity descriptions.

        Raises:
            InputError: when the numbers of images and texts differ, for a training batch of one, and as in
                `encode_image` and `encode_text`.
        """
        return self._encode(image, cloth_instruction, id_instruction)[0]

    def forward_masked(
        self,
        image: Tensor,
        cloth_instruction: str | Sequence[str] | None,
        id_instruction: str | Sequence[str],
        share: float = 0.15,
    ) -> tuple[T2IReIDOutput, MaskedPairs]:
        """As `forward`, and each image's tokens beside its identity text with a ``share`` of the words hidden.

        The image is encoded once for both; the text, which now has other words, a second time. For training only.

        Raises:
            InputError: as `forward`.
            ConfigError: for a tokenizer with nothing to write in place of a word.
        """
        output, image_tokens = self._encode(image, cloth_instruction, id_instruction)
        assert image_tokens is not None
        input_ids, mask = self.text_cache(_as_texts(id_instruction, "id_instruction"))
        shown, hidden = hide_words(input_ids, self.text_cache.tokenizer, share)
        lengths = mask.sum(dim=1).tolist()
        seen = [tuple(ids[:n]) for ids, n in zip(shown.tolist(), lengths)]
        read, layout = self._read(seen, remember=False)  # other words are hidden every time
        words, word_mask = layout.padded(self._attend_words(read, layout))
        return output, MaskedPairs(image_tokens, words, word_mask, hidden[:, : words.shape[1]].to(self.device))

    def _encode(
        self,
        image: Tensor | None,
        cloth_instruction: str | Sequence[str] | None,
        id_instruction: str | Sequence[str] | None,
    ) -> tuple[T2IReIDOutput, Tensor | None]:
        """What `forward` returns, and the image's tokens ``[B, L, D]``."""
        texts = self._given_texts(image, cloth_instruction, id_instruction)
        words = layout = None
        if texts:
            rows = self.text_cache.ids([text for batch in texts.values() for text in batch])
            words, layout = self._read(rows)
        core = self._compiled_core or self._core
        return core(image, words, layout, tuple(texts))

    def _core(
        self, image: Tensor | None, words: Tensor | None, layout: PackedBatch | None, given: tuple[str, ...]
    ) -> tuple[T2IReIDOutput, Tensor | None]:
        """`_encode` from tensors to tensors, which a compiler can take as a whole.

        Args:
            image: as in `forward`.
            words, layout: the texts as `_read` gives them, batch after batch.
            given: which batches of texts these are, the identity texts last.
        """
        image_tokens = image_embeds = id_logits = id_embeds = cloth_embeds = cloth_image_embeds = gate = None
        if image is not None:
            image_tokens = self._image_tokens(image)
            id_embeds, cloth_embeds, gate = self.disentangle(image_tokens, self._grid(image))
            id_logits = self.id_classifier(id_embeds)
            image_embeds, cloth_image_embeds = self._project(self.image_mlp, id_embeds, cloth_embeds)

        text_tokens: Tensor | None = None
        text_embeds: dict[str, Tensor] = {}
        if words is not None and layout is not None:
            # In one pass, so that one set of batch statistics describes them all.
            text_tokens = self._attend_words(words, layout)
            features = layout.mean(text_tokens).chunk(len(given))
            text_embeds = dict(zip(given, self._project(self.text_mlp, *features)))
        id_text_embeds = text_embeds.get("id_instruction")

        fused_embeds = gate_weights = None
        if self.fusion is not None and image_embeds is not None and id_text_embeds is not None:
            if self.fuses_tokens:
                assert layout is not None
                assert text_tokens is not None
                tokens, mask = (part[-len(image_embeds) :] for part in layout.padded(text_tokens))
                fused, gate_weights = self.fusion(image_tokens, tokens, mask)
                fused_embeds = F.normalize(self.scale * fused, dim=-1)
            else:
                fused_embeds, gate_weights = self.fuse(image_embeds, id_text_embeds)

        output = T2IReIDOutput(
            image_embeds=image_embeds,
            id_text_embeds=id_text_embeds,
            fused_embeds=fused_embeds,
            id_logits=id_logits,
            id_embeds=id_embeds,
            cloth_embeds=cloth_embeds,
            cloth_text_embeds=text_embeds.get("cloth_instruction"),
            cloth_image_embeds=cloth_image_embeds,
            gate=gate,
            gate_weights=gate_weights,
        )
        return output, image_tokens

    def compile_parts(self, **options: Any) -> None:
        """Compiles both encoders and what training computes from tensors, each as one graph; names stay as they are.

        Text batches differ in their numbers of tokens, so shapes are left open where they have been seen to change.

        Args:
            **options: of `torch.compile`.
        """
        options = {"fullgraph": True, **options}
        interpolates_on_request(self.visual_encoder)
        self.text_encoder.compile(**options)
        self.visual_encoder.compile(**options)
        self._compiled_core = torch.compile(self._core, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_compiled_core": None}  # compiled code stays behind in copies and pickles

    def load_param(self, trained_path: str | Path) -> T2IReIDModel:
        """Loads weights from a file; `load_report` then says what was loaded and what was not.

        Raises:
            CheckpointError: when the file is missing, damaged, unsafe, or nothing in it fits.
        """
        self.load_report = load_weights(trained_path, self)
        logger.info("scale %.4f after loading '%s'", self.scale.item(), trained_path)
        return self

    def _build_tokenizer(self, config: Mapping[str, Any]) -> CachedTokenizer:
        text_config = self.text_encoder.config
        longest = getattr(text_config, "max_position_embeddings", config["max_length"])
        if config["max_length"] > longest:
            raise ConfigError(f"max_length: {config['max_length']} exceeds the text encoder's {longest} positions")
        padded = attends_padding(text_config)
        if padded and config["max_length"] != longest:
            raise ConfigError(
                f"max_length: {config['max_length']} must be {longest}; {text_config.model_type} was trained on texts "
                "padded to that length, and reads the last position"
            )
        tokenizer: PreTrainedTokenizerBase | None = config["tokenizer"]
        if tokenizer is None:
            tokenizer = build_tokenizer(config["bert_base_path"], text_config.vocab_size)
        return CachedTokenizer(tokenizer, config["max_length"], attends_padding=padded)

    def _image_tokens(self, image: Tensor) -> Tensor:
        """``[B, 3, H, W]`` or ``[B, 3, H, W, 1]`` to the encoder's tokens ``[B, L, D]``."""
        if image.dim() == 5 and image.shape[-1] == 1:
            image = image.squeeze(-1)
        if image.dim() != 4 or image.shape[1] != 3:
            raise InputError(f"images must be [B, 3, H, W] or [B, 3, H, W, 1], not {list(image.shape)}")
        return image_tokens(self.visual_encoder, image.to(self.device, non_blocking=True))

    def _grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of the patches of ``[B, 3, H, W]`` or ``[B, 3, H, W, 1]``."""
        rows, columns = patch_size(self.visual_encoder.config)
        return image.shape[2] // rows, image.shape[3] // columns

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        """``n`` texts to pooled features ``[n, D]``; outside training each different text once, some at a time."""
        rows = self.text_cache.ids(texts)
        different = rows if self.training else sorted(dict.fromkeys(rows), key=len)
        at_once = len(rows) if self.training else TEXTS_AT_ONCE
        pooled = []
        for start in range(0, len(different), at_once):
            words, layout = self._read(different[start : start + at_once])
            pooled.append(layout.mean(self._attend_words(words, layout)))
        if self.training:
            return pooled[0]
        number = {ids: i for i, ids in enumerate(different)}
        return torch.cat(pooled)[[number[ids] for ids in rows]]

    def _read(self, rows: Sequence[Ids], remember: bool = True) -> tuple[Tensor, PackedBatch]:
        """Token ids of ``n`` texts to what the text encoder makes of them, see `words.read_texts`.

        A repeated text passes the encoder once, unless it has dropout, which makes each time another. The attention
        behind it has dropout in training, so it sees every text.
        """
        encoder, pad = self.text_encoder, self.text_cache.pad
        remembered = self.text_features if remember and self.training and self.freeze_text else None
        source = word_features if remembered is None else remembered
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_text):
            words, layout = encode_texts(
                rows, lambda texts: source(encoder, texts, pad), repeats_differ=self.training and not self.freeze_text
            )
        return words, layout.to(self.device)

    def _attend_words(self, words: Tensor, layout: PackedBatch) -> Tensor:
        """What `_read` gives to features of the tokens in their rows, ``[R, T, D]``."""
        if self.text_adapter is not None:
            words = self.text_adapter(words)
        tokens, mask = layout.to_rows(words), layout.attention_mask()  # [R, T, D], [R, T, T]
        if mask is not None:
            mask = mask.repeat_interleave(self.text_attn.num_heads, dim=0)
        attended, _ = self.text_attn(tokens, tokens, tokens, attn_mask=mask, need_weights=False)
        return self.text_attn_norm(attended + tokens)

    def _project(self, mlp: nn.Module, *features: Tensor) -> tuple[Tensor, ...]:
        """Each ``[n, D]`` to ``[n, 256]`` of unit norm; as one batch, for the sake of its statistics."""
        sizes = [len(f) for f in features]
        if self.training and min(sizes) < 2:
            raise InputError(
                "a training batch of 1: batch normalisation needs at least 2 samples; raise train.batch_size"
            )
        embeds = F.normalize(mlp(self.shared_mlp(torch.cat(features))), dim=-1)
        return embeds.split(sizes)

    @staticmethod
    def _given_texts(
        image: Tensor | None, cloth: str | Sequence[str] | None, identity: str | Sequence[str] | None
    ) -> dict[str, list[str]]:
        given = {"cloth_instruction": cloth, "id_instruction": identity}  # identity last, where `forward` looks
        texts = {name: _as_texts(value, name) for name, value in given.items() if value is not None}
        counts = {name: len(batch) for name, batch in texts.items()}
        if image is not None:
            counts["image"] = len(image)
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count} in {name}" for name, count in counts.items())
            raise InputError(f"the numbers of images and texts differ: {found}")
        return texts


def _complete(net_config: Mapping[str, Any]) -> dict[str, Any]:
    """``net_config`` over the defaults, checked."""
    check_keys("net_config", net_config, DEFAULTS)
    config = {**DEFAULTS, **net_config}
    if config["num_classes"] < 1:
        raise ConfigError(f"num_classes: {config['num_classes']} must be at least 1")
    if config["max_length"] < 3:
        raise ConfigError(f"max_length: {config['max_length']} leaves no room between [CLS] and [SEP]")
    if config["fusion"] is not None:
        config["fusion"] = {**DEFAULT_FUSION, **config["fusion"]}
        check_fusion_dim(config["fusion"], EMBED_DIM)
    if config["tokenizer"] is None and isinstance(config["bert_base_path"], Mapping):
        raise EncoderError(
            "bert_base_path: a text encoder built from a configuration has no vocabulary of its own; give "
            "net_config['tokenizer'], for instance learn_wordpiece(captions)"
        )
    return config


def _as_texts(text: str | Sequence[str], name: str) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)):
        raise InputError(f"{name}: expected a string or a list of strings, not {type(text).__name__}")
    if not texts:
        raise InputError(f"{name}: the list of texts is empty")
    for i, item in enumerate(texts):
        if not isinstance(item, str):
            raise InputError(f"{name}[{i}]: expected a string, not {type(item).__name__} ({item!r})")
        if not item.strip():
            raise InputError(f"{name}[{i}]: the text is empty")
    return list(texts)
