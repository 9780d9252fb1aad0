"""`T2IReIDModel`: embeds person images and descriptions, classifies identities and fuses both embeddings."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import CheckpointError, ConfigError, EncoderError, InputError, check_keys
from t2ireid_plugin.modeling.checkpoint import Checkpoint, LoadReport, copy_state_dict
from t2ireid_plugin.modeling.encoders.backbones import ImageTokens, image_reader, interpolates_on_request
from t2ireid_plugin.modeling.encoders.families import attends_padding
from t2ireid_plugin.modeling.encoders.grid import resize_grid
from t2ireid_plugin.modeling.encoders.loading import (
    IMAGE_KEY,
    TEXT_KEY,
    build_image_encoder,
    build_projection,
    build_text_encoder,
    build_tokenizer,
)
from t2ireid_plugin.modeling.encoders.packing import PackedBatch, pack, start_offsets
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.encoders.token_features import TEXTS_AT_ONCE, Ids, TokenFeatureCache, encode_texts
from t2ireid_plugin.modeling.encoders.tokenizer import CachedTokenizer
from t2ireid_plugin.modeling.fusion import ResidualFusion, SequenceMambaFusion, build_fusion
from t2ireid_plugin.modeling.head import SHARED_DIM, build_disentangle, disentangled, project, projection_mlp
from t2ireid_plugin.modeling.image_embedder import check_class_token, check_pixels
from t2ireid_plugin.modeling.ranking import BOTH, Ranking
from t2ireid_plugin.modeling.settings import (
    DEFAULT_DISENTANGLE,
    DEFAULT_FUSION,
    DEFAULT_SELECTION,
    EMBED_DIM,
    NUM_HEADS,
    check_model,
    disentangle_dim,
)
from t2ireid_plugin.modeling.stored import Stored, read_stored
from t2ireid_plugin.modeling.token_selection import TokenSelection, join_selected, pick_token
from t2ireid_plugin.modeling.training_passes import encode_selected, read_selected

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

INITIAL_SCALE = 1.0

DEFAULTS: dict[str, Any] = {
    "bert_base_path": "bert-base-uncased",
    "vit_pretrained": "google/vit-base-patch16-224",
    "num_classes": 8000,
    "disentangle": {"tokens": "all"},
    "fusion": DEFAULT_FUSION,
    "freeze_text": True,
    "freeze_image": False,
    "max_length": 64,
    "projection": "mlp",
    "projection_dropout": 0.2,
    "token_selection": DEFAULT_SELECTION,
    "image_grid": None,
    "tokenizer": None,
}


class T2IReIDOutput(NamedTuple):
    """Output of `T2IReIDModel.forward`; fields whose input was not given are None.

    The 256-wide embeddings have unit norm; ``id_embeds`` and ``cloth_embeds`` are the gated features before projection.
    With ``projection: none`` or ``encoder`` all embeddings have the width ``D``. With ``disentangle.type: none`` the
    fields of the clothing branch and ``gate`` are None.
    """

    image_embeds: Tensor | None  # [B, 256] identity branch of the image
    id_text_embeds: Tensor | None  # [B, 256]
    fused_embeds: Tensor | None  # [B, 256], or [B, 512] of both branches with fusion.type residual
    id_logits: Tensor | None  # [B, num_classes]
    id_embeds: Tensor | None  # [B, D]
    cloth_embeds: Tensor | None  # [B, D]
    cloth_text_embeds: Tensor | None  # [B, 256]
    cloth_image_embeds: Tensor | None  # [B, 256] clothing branch of the image
    gate: Tensor | None  # [B, D] share of the identity branch, 0..1
    gate_weights: Tensor | None  # [B, 2] image, text; sums to 1; None with fusion.type residual


class T2IReIDModel(nn.Module):
    """Text-to-image person re-identification with ViT, BERT, disentangling and Mamba fusion.

    Args:
        net_config: any of
            ``vit_pretrained``, ``bert_base_path``: a folder, a hub id, or a mapping that configures an encoder with
            random weights; both may name one two-tower model such as CLIP; ``vit_pretrained`` also ``torchreid:NAME``
            and ``timm:NAME``;
            ``tokenizer``: required for a text encoder from a mapping, else the encoder's own;
            ``num_classes``: training identities; ``disentangle``: arguments of `DisentangleModule`, ``dim`` (the width
            that it reads) and ``type``, which is ``none`` for the encoder's own pooled token in its place;
            ``fusion``: ``{type, dim, d_state, d_conv, num_layers, output_dim, dropout}`` or None;
            ``freeze_text``, ``freeze_image``: the encoder gets no gradient and no dropout; ``max_length``: tokens per
            text;
            ``projection``: ``mlp``, ``none`` for embeddings as wide as the tokens, or ``encoder`` for CLIP's own: all
            tokens pass CLIP's projections, and the last one of a text is its embedding, without the attention over
            them; ``projection_dropout``: of the MLPs that end in the embeddings;
            ``token_selection``: arguments of `TokenSelection`; with a ``ratio`` above 0 the embeddings that rank have
            its embedding beside the one of the pooled token;
            ``image_grid``: arguments of `resize_grid`, or None for positions that follow each image's size.

    Raises:
        ConfigError: for an unknown key or a value that cannot work.
        EncoderError: when an encoder's files are missing or do not fit each other.
    """

    image_adapter: nn.Linear | None
    text_adapter: nn.Linear | None
    text_attn: nn.MultiheadAttention | None
    fusion: nn.Module | None

    def __init__(self, net_config: Mapping[str, Any]) -> None:
        super().__init__()
        config = _complete(net_config)
        self.freeze_text: bool = config["freeze_text"]
        self.freeze_image: bool = config["freeze_image"]
        self.load_report: LoadReport | None = None
        self.classes: Sequence[str] = ()  # person of each class, ``DATASET:PID``, from a checkpoint
        self.ranking = Ranking()  # how `encode_query` and `encode_gallery` score; from a checkpoint
        # Set by the training loop to compute a frozen encoder's features only once.
        self.text_features: TokenFeatureCache | None = None
        self.image_features: Callable[[PreTrainedModel, Tensor], ImageTokens] | None = None
        self._compiled_core: Callable[..., tuple[T2IReIDOutput, dict[str, Tensor | None]]] | None = None

        # Text first: a missing tokenizer is then reported before 86 million image parameters are built.
        tokenizer = config["tokenizer"]
        vocab_size = None if tokenizer is None else len(tokenizer)
        self.text_encoder = build_text_encoder(config["bert_base_path"], vocab_size)
        self.text_cache = self._build_tokenizer(config)
        self.visual_encoder = build_image_encoder(config["vit_pretrained"])
        own = config["projection"] == "encoder"
        encoders = {IMAGE_KEY: self.visual_encoder, TEXT_KEY: self.text_encoder}
        projections = [build_projection(config[key], encoder, key) for key, encoder in encoders.items() if own]
        if config["image_grid"] and not hasattr(self.visual_encoder.config, "patch_stride"):
            resize_grid(self.visual_encoder, **config["image_grid"])
        self.preprocess = image_preprocess(config["vit_pretrained"], self.visual_encoder.config)
        self.reader = image_reader(self.visual_encoder.config)
        check_class_token(config["disentangle"], self.visual_encoder)
        width = disentangle_dim(config["disentangle"], self.reader.width, self.reader.feature_map)
        text_width: int = self.text_encoder.config.hidden_size
        if own:
            self.image_adapter, self.text_adapter = projections
            width = self.image_adapter.out_features
        else:  # only where needed, so that the parameter names stay those of the specification
            self.image_adapter = nn.Linear(self.reader.width, width) if self.reader.width != width else None
            self.text_adapter = nn.Linear(text_width, width) if text_width != width else None

        self.pooling: dict[str, Any] = {**DEFAULT_DISENTANGLE, **config["disentangle"]}
        self.disentangle = build_disentangle(config["disentangle"], width)
        self.id_classifier = nn.Linear(width, config["num_classes"])
        self.projection: str = config["projection"]
        self.embed_dim = EMBED_DIM if self.projection == "mlp" else width
        if self.projection == "mlp":
            self.shared_mlp = nn.Linear(width, SHARED_DIM)
            self.image_mlp = projection_mlp(SHARED_DIM, EMBED_DIM, config["projection_dropout"])
            self.text_mlp = projection_mlp(SHARED_DIM, EMBED_DIM, config["projection_dropout"])
        self.text_attn = None
        if not own:
            self.text_attn = nn.MultiheadAttention(width, NUM_HEADS, dropout=0.1, batch_first=True)
            self.text_attn_norm = nn.LayerNorm(width)
        no_fusion = config["fusion"] is None or config["fusion"]["type"] == "none"
        self.fusion = None if no_fusion else build_fusion(config["fusion"], width)
        self.token_selection = None
        if config["token_selection"]["ratio"]:
            self.token_selection = TokenSelection(width, **config["token_selection"])
        self.scale = nn.Parameter(torch.full((1,), INITIAL_SCALE))
        for encoder in self.frozen_encoders:
            encoder.requires_grad_(False).eval()
        logger.info("scale %.4f, fusion %s", INITIAL_SCALE, "none" if no_fusion else type(self.fusion).__name__)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.scale.device

    @property
    def score_dim(self) -> int:
        """Width of the embeddings of `encode_image` and `encode_text`."""
        return self.embed_dim + (0 if self.token_selection is None else self.token_selection.dim)

    @property
    def frozen_encoders(self) -> list[PreTrainedModel]:
        """The encoders that keep their weights and stay in eval mode, see ``freeze_text`` and ``freeze_image``."""
        frozen = ((self.text_encoder, self.freeze_text), (self.visual_encoder, self.freeze_image))
        return [encoder for encoder, at_rest in frozen if at_rest]

    @property
    def fuses_tokens(self) -> bool:
        """True for a fusion that reads tokens instead of embeddings, so that `fuse` cannot be called."""
        return isinstance(self.fusion, SequenceMambaFusion)

    @property
    def fuses_branches(self) -> bool:
        """True for a fusion that reads the embeddings of both branches, see `fuse`."""
        return isinstance(self.fusion, ResidualFusion)

    def train(self, mode: bool = True) -> T2IReIDModel:
        """As `nn.Module.train`, except that a frozen encoder stays in eval mode, without dropout."""
        super().train(mode)
        for encoder in self.frozen_encoders:
            encoder.eval()
        return self

    def encode_image(self, image: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` (or ``[B, 3, H, W, 1]``) to identity embeddings ``[B, 256]`` of unit norm.

        With token selection they have its embedding beside them, see `join_selected`; so have those of `encode_text`.

        Raises:
            InputError: for anything but a tensor of normalised pixels, another shape, or a training batch of one.
        """
        check_pixels(image)
        read, scores = (image, None) if self.token_selection is None else read_selected(self, image)
        tokens, (id_embeds, _, _) = self._encode_image(read)
        embeds = self._project("image_mlp", id_embeds)[0]
        if self.token_selection is None or scores is None:
            return embeds
        return join_selected(embeds, self.token_selection.embed_image(tokens, scores))

    def encode_text(self, text: str | Sequence[str]) -> Tensor:
        """A string to ``[256]``, a list or tuple of ``n`` strings to ``[n, 256]``, of unit norm.

        Raises:
            InputError: for an empty list, an empty text, an item that is not a string, or a training batch of one.
        """
        embeds = self.encode_ids(self.text_cache.ids(_as_texts(text, "text")))  # tokenise: a tuple of ids per text
        return embeds[0] if isinstance(text, str) else embeds

    def encode_ids(self, ids: Sequence[Ids]) -> Tensor:
        """Token ids of ``n`` texts, special ones included, to ``[n, 256]`` of unit norm."""
        if self.token_selection is not None:
            parts = (encode_selected(self, ids[i : i + TEXTS_AT_ONCE]) for i in range(0, len(ids), TEXTS_AT_ONCE))
            features, selected = map(torch.cat, zip(*parts, strict=True))  # [n, D], [n, E]
            return join_selected(self._project("text_mlp", features)[0], selected)
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), ids[i]))  # similar lengths share a chunk
        pooled = []
        for start in range(0, len(ids), TEXTS_AT_ONCE):
            features, batch = self._encode_tokens([ids[i] for i in order[start : start + TEXTS_AT_ONCE]])  # [N, D]
            pooled.append(self._pool_text(self._attend_tokens(features, batch), batch))  # [R, T, D] to [n, D]
        in_order = torch.cat(pooled)[sorted(range(len(ids)), key=order.__getitem__)]
        return self._project("text_mlp", in_order)[0]

    def encode_padded(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `encode_ids`, from ``[n, L]`` ids and 1 for tokens, 0 for padding: without packing, as ONNX needs."""
        if self.token_selection is not None:
            raise ConfigError("model.token_selection: encode_padded has no attention to select by; use encode_ids")
        tokens = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [n, L, D]
        if self.text_adapter is not None:
            tokens = self.text_adapter(tokens)
        if self.text_attn is None:
            return self._project("text_mlp", pick_token(tokens, attention_mask.sum(dim=1) - 1))[0]
        padding = attention_mask == 0
        attended, _ = self.text_attn(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)
        shares = attention_mask.unsqueeze(-1) / attention_mask.sum(dim=1)[:, None, None]
        return self._project("text_mlp", (self.text_attn_norm(attended + tokens) * shares).sum(dim=1))[0]

    def encode_query(self, text: str | Sequence[str]) -> Tensor:
        """A caption to ``[d]``, ``n`` captions to ``[n, d]``; ``d`` is 256, or 512 with ranking by both.

        The inner product with `encode_gallery` is the score by which the model ranks images for a caption (`ranking`).
        Of unit norm, except that a half is zero where the caption describes only the person, or only the clothing.

        Raises:
            InputError: as `encode_text`.
        """
        if self.ranking.by != BOTH:
            return self.encode_text(text)
        captions = _as_texts(text, "text")
        identity, clothing = self.ranking.parts(captions)
        sides = self.encode_text([*identity, *clothing]).chunk(2)
        embeds = self.ranking.join(*self.ranking.without_missing(captions, *sides))
        return embeds[0] if isinstance(text, str) else embeds

    def encode_gallery(self, image: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to vectors ``[B, 256]`` or ``[B, 512]`` of unit norm, see `encode_query`.

        Raises:
            InputError: as `encode_image`.
        """
        branches = self.encode_branches(image)
        return self.ranking.join(*branches) if self.ranking.by == BOTH else branches[0]

    def encode_branches(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images ``[B, 3, H, W]`` to ``[B, 256]`` for each branch by which the model ranks, identity first.

        Raises:
            InputError: as `encode_image`.
        """
        if self.ranking.by != BOTH:
            return (self.encode_image(image),)
        check_pixels(image)
        _, (id_embeds, cloth_embeds, _) = self._encode_image(image)
        if cloth_embeds is None:
            raise ConfigError("ranking.by: both needs a clothing branch, which disentangle.type none does not have")
        return self._project("image_mlp", id_embeds, cloth_embeds)

    def _encode_tokens(self, ids: Sequence[Ids], use_cache: bool = True) -> tuple[Tensor, PackedBatch]:
        """Runs the text encoder: token ids of ``n`` texts to token features ``[N, D]``, and their places in rows.

        A repeated text passes the encoder once, except under dropout, which makes every pass different.
        """
        dropout = self.training and not self.freeze_text
        keys: Sequence[Any] = range(len(ids)) if dropout else ids
        distinct = dict(sorted(dict(zip(keys, ids)).items(), key=lambda item: len(item[1])))
        cache = self.text_features if use_cache and self.training and self.freeze_text else None
        encode = encode_texts if cache is None else cache
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_text):
            features = encode(self.text_encoder, list(distinct.values()), self.text_cache.pad)
        offsets = dict(zip(distinct, start_offsets([len(text) for text in distinct.values()])))
        # One attention follows, whose cost is the row's square, and no layers to which padding would matter more.
        lengths = [len(text) for text in ids]
        return features, pack(lengths, [offsets[key] for key in keys], max(lengths)).to(self.device)

    def _attend_tokens(self, features: Tensor, batch: PackedBatch) -> Tensor:
        """Self-attention within each text, where there is one: token features ``[N, D]`` to rows ``[R, T, D]``."""
        if self.text_adapter is not None:
            features = self.text_adapter(features)
        tokens = batch.to_rows(features)
        if self.text_attn is None:
            return tokens
        mask = None
        if not batch.is_single:  # nn.MultiheadAttention takes a mask per head, True where attention is forbidden
            mask = ~batch.attention_mask().repeat_interleave(NUM_HEADS, dim=0)
        attended, _ = self.text_attn(tokens, tokens, tokens, attn_mask=mask, need_weights=False)
        return self.text_attn_norm(attended + tokens)

    def _pool_text(self, rows: Tensor, batch: PackedBatch) -> Tensor:
        """``[R, T, D]`` to ``[n, D]``: the mean of each text's tokens, or its last one, CLIP's end of text."""
        return batch.last(rows) if self.text_attn is None else batch.mean(rows)

    def fuse(
        self,
        image_embeds: Tensor,
        id_text_embeds: Tensor,
        cloth_image_embeds: Tensor | None = None,
        cloth_text_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Pairs of embeddings ``[B, 256]`` to fused embeddings ``[B, 256]`` of unit norm and gate weights ``[B, 2]``.

        ``fusion.type: residual`` reads both branches and gives ``[B, 512]`` of unit norm, identity before clothing,
        without gate weights. A text that says nothing for a branch is zero there. Other fusions ignore the clothing.

        Raises:
            ConfigError: when the model was built without fusion, or with one that reads tokens, which only `forward`
                has.
            InputError: when a fusion of both branches lacks the clothing.
        """
        if self.fusion is None:
            raise ConfigError("the model has no fusion (model.fusion)")
        if self.fuses_tokens:
            raise ConfigError("fusion.type sequence_mamba reads tokens, not embeddings; call the model with the pairs")
        inputs = (image_embeds.to(self.device), id_text_embeds.to(self.device))
        if not self.fuses_branches:
            return self._fuse(inputs)
        if cloth_image_embeds is None or cloth_text_embeds is None:
            raise InputError("fusion.type residual reads cloth_image_embeds and cloth_text_embeds as well")
        return self._fuse((*inputs, cloth_image_embeds.to(self.device), cloth_text_embeds.to(self.device)))

    def _fuse(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        assert self.fusion is not None
        if self.fuses_branches:
            fused, gate_weights = self.fusion(torch.stack(inputs[::2], 1), torch.stack(inputs[1::2], 1)), None
        else:
            fused, gate_weights = self.fusion(*inputs)
        return F.normalize(self.scale * fused, dim=-1), gate_weights

    def forward(
        self,
        image: Tensor | None = None,
        cloth_instruction: str | Sequence[str] | None = None,
        id_instruction: str | Sequence[str] | None = None,
        fuse: bool = True,
    ) -> T2IReIDOutput:
        """Encodes the inputs that are given; an image and an identity text together are also fused.

        ``fusion.type: residual`` fuses an image with both texts, and only with both.

        Args:
            image: ``[B, 3, H, W]`` or ``[B, 3, H, W, 1]``.
            cloth_instruction: ``B`` clothing descriptions (one string counts as a batch of one).
            id_instruction: ``B`` identity descriptions.
            fuse: False leaves the fusion out.

        Raises:
            InputError: when the numbers of images and texts differ, for a training batch of one, and as in
                `encode_image` and `encode_text`.
        """
        return self.forward_features(image, cloth_instruction, id_instruction, fuse)[0]

    def forward_features(
        self,
        image: Tensor | None = None,
        cloth_instruction: str | Sequence[str] | None = None,
        id_instruction: str | Sequence[str] | None = None,
        fuse: bool = True,
    ) -> tuple[T2IReIDOutput, Tensor | None]:
        """As `forward`, and the pooled identity texts before projection ``[B, D]``."""
        output, others = self._encode(image, cloth_instruction, id_instruction, fuse)
        return output, others["id_text_features"]

    def _encode(
        self,
        image: Tensor | None,
        cloth_instruction: str | Sequence[str] | None,
        id_instruction: str | Sequence[str] | None,
        fuse: bool,
    ) -> tuple[T2IReIDOutput, dict[str, Tensor | None]]:
        """The output of `forward`; by name, image tokens ``[B, L, D]`` and pooled identity texts ``[B, D]``."""
        # Identity last, where `_core` expects it.
        given = {"cloth_instruction": cloth_instruction, "id_instruction": id_instruction}
        texts = {name: _as_texts(value, name) for name, value in given.items() if value is not None}
        counts = {name: len(group) for name, group in texts.items()}
        if image is not None:
            check_pixels(image)
            counts["image"] = len(image)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} in {name}" for name, count in counts.items())
            raise InputError(f"the numbers of images and texts differ: {listed}")
        features = batch = None
        tokens = self._read_image(image) if image is not None and self.image_features is not None else image
        if texts:
            features, batch = self._encode_tokens(self.text_cache.ids([t for group in texts.values() for t in group]))
        core = self._compiled_core or self._core
        return core(tokens, features, batch, tuple(texts), fuse)

    def _core(
        self,
        image: Tensor | ImageTokens | None,
        features: Tensor | None,
        batch: PackedBatch | None,
        groups: tuple[str, ...],
        fuse: bool = True,
    ) -> tuple[T2IReIDOutput, dict[str, Tensor | None]]:
        """`_encode` from tensors to tensors, which a compiler can take as a whole.

        Args:
            image: as in `forward`, or its tokens from a cache.
            features, batch: of all texts, from `_encode_tokens`.
            groups: names of the equally large groups of texts, the identity texts last.
            fuse: as in `forward`.
        """
        image_tokens = image_embeds = id_logits = id_embeds = cloth_embeds = cloth_image_embeds = gate = None
        if image is not None:
            image_tokens, (id_embeds, cloth_embeds, gate) = self._encode_image(image)
            id_logits = self.id_classifier(id_embeds)
            branches = [id_embeds] if cloth_embeds is None else [id_embeds, cloth_embeds]
            image_embeds, cloth_image_embeds = (*self._project("image_mlp", *branches), None)[:2]

        text_tokens: Tensor | None = None
        text_features: dict[str, Tensor] = {}
        text_embeds: dict[str, Tensor] = {}
        if features is not None and batch is not None:
            text_tokens = self._attend_tokens(features, batch)
            text_features = dict(zip(groups, self._pool_text(text_tokens, batch).chunk(len(groups))))
            text_embeds = dict(zip(groups, self._project("text_mlp", *text_features.values())))
        id_text_embeds = text_embeds.get("id_instruction")

        cloth_text_embeds = text_embeds.get("cloth_instruction")

        fused_embeds = gate_weights = None
        inputs = [image_embeds, id_text_embeds]
        if self.fuses_branches:
            inputs += [cloth_image_embeds, cloth_text_embeds]
        given = tuple(embeds for embeds in inputs if embeds is not None)
        if fuse and self.fusion is not None and len(given) == len(inputs):
            if self.fuses_tokens and batch is not None and image_tokens is not None and text_tokens is not None:
                given = (image_tokens, *(part[-len(image_tokens) :] for part in batch.padded(text_tokens)))
            fused_embeds, gate_weights = self._fuse(given)

        output = T2IReIDOutput(
            image_embeds=image_embeds,
            id_text_embeds=id_text_embeds,
            fused_embeds=fused_embeds,
            id_logits=id_logits,
            id_embeds=id_embeds,
            cloth_embeds=cloth_embeds,
            cloth_text_embeds=cloth_text_embeds,
            cloth_image_embeds=cloth_image_embeds,
            gate=gate,
            gate_weights=gate_weights,
        )
        return output, {"image_tokens": image_tokens, "id_text_features": text_features.get("id_instruction")}

    def compile_parts(self, **options: Any) -> None:
        """Compiles both encoders and the rest of the forward pass, each as one graph; parameter names stay the same.

        Text batches differ in their numbers of tokens, so these dimensions become dynamic.

        Args:
            **options: for `torch.compile`.
        """
        options = {"fullgraph": True, **options}
        try:
            getpass.getuser()
        except (KeyError, OSError):  # no name, as in some containers; older PyTorch calls its cache by it
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}")
        interpolates_on_request(self.visual_encoder)  # remembers the answer, which no graph can compute
        self.text_encoder.compile(**options)
        self.visual_encoder.compile(**options)
        self._compiled_core = torch.compile(self._core, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_compiled_core": None}  # copies and pickles have no compiled code

    @classmethod
    def from_checkpoint(cls, file: str | Path | Checkpoint) -> T2IReIDModel:
        """The model of a run's checkpoint or of an exported ``model.safetensors``, in eval mode, from that file alone.

        Raises:
            CheckpointError: when the file is missing, damaged or unsafe, does not describe its model, or lacks weights.
        """
        checkpoint = file if isinstance(file, Checkpoint) else Checkpoint.read(file)
        stored = read_stored(checkpoint)
        if not stored.net_config or stored.tokenizer is None:
            raise CheckpointError(
                f"'{checkpoint.path}' does not describe its model, as a run's checkpoint does; build one, then "
                "load_param"
            )
        model = cls({**stored.net_config, "tokenizer": stored.tokenizer})
        model._load(checkpoint, stored).require_complete(checkpoint.path)
        return model.eval()

    def load_param(self, trained_path: str | Path) -> T2IReIDModel:
        """Loads weights from a file; `load_report` then lists what was loaded and what was not.

        Takes over everything else that the file says about its model: ``preprocess``, ``ranking``, the tokenizer, the
        number of tokens per text, and the persons of the classes (``classes``).

        Raises:
            CheckpointError: when the file is missing, damaged, unsafe, or nothing in it fits.
        """
        checkpoint = Checkpoint.read(trained_path)
        self._load(checkpoint, read_stored(checkpoint))
        logger.info("scale %.4f after loading '%s'", self.scale.item(), trained_path)
        return self

    def _load(self, checkpoint: Checkpoint, stored: Stored) -> LoadReport:
        pooling = stored.net_config.get("disentangle", self.pooling)
        if pooling != self.pooling:
            raise CheckpointError(
                f"'{checkpoint.path}' was trained with disentangle {pooling}, but the model has {self.pooling}; build "
                "it with the same, or with T2IReIDModel.from_checkpoint"
            )
        self.load_report = copy_state_dict(checkpoint.state, self, checkpoint.path)
        self.preprocess = stored.preprocess or self.preprocess
        self.ranking = stored.ranking or self.ranking
        self.classes = stored.classes if len(stored.classes) == self.id_classifier.out_features else ()
        own, length = self.text_cache, stored.net_config.get("max_length", self.text_cache.max_length)
        tokenizer = stored.tokenizer or own.tokenizer
        if len(tokenizer) <= self.text_encoder.config.vocab_size:  # else the text encoder is another one
            self.text_cache = CachedTokenizer(tokenizer, length, attends_padding=own.attends_padding)
        return self.load_report

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

    def _read_image(self, image: Tensor) -> ImageTokens:
        """The image encoder's tokens, from the cache if there is one."""
        if image.dim() == 5 and image.shape[-1] == 1:
            image = image.squeeze(-1)
        if image.dim() != 4 or image.shape[1] != 3:
            raise InputError(f"images must be [B, 3, H, W] or [B, 3, H, W, 1], not {list(image.shape)}")
        if self.image_features is not None:
            return self.image_features(self.visual_encoder, image)
        return self.reader.read(self.visual_encoder, image.to(self.device, non_blocking=True))

    def _encode_image(self, image: Tensor | ImageTokens) -> tuple[Tensor, tuple[Tensor, Tensor | None, Tensor | None]]:
        """Images to their tokens ``[B, L, D]`` and the output of `disentangled`."""
        tokens, grid = self._read_image(image) if isinstance(image, Tensor) else image
        if self.image_adapter is not None:
            tokens = self.image_adapter(tokens)
        return tokens, disentangled(self.disentangle, tokens, grid)

    def _project(self, mlp: str, *features: Tensor) -> tuple[Tensor, ...]:
        """Each ``[n, D]`` to ``[n, 256]`` of unit norm by the MLP of this name, see `head.project`."""
        if self.projection == "mlp":
            features = project(self.shared_mlp, getattr(self, mlp), features)
        return tuple(F.normalize(embeds, dim=-1) for embeds in features)


def _complete(net_config: Mapping[str, Any]) -> dict[str, Any]:
    """Merges ``net_config`` into the defaults and checks the values."""
    check_keys("net_config", net_config, DEFAULTS)
    config = {**DEFAULTS, **net_config}
    if config["num_classes"] < 1:
        raise ConfigError(f"num_classes: {config['num_classes']} must be at least 1")
    if config["max_length"] < 3:
        raise ConfigError(f"max_length: {config['max_length']} leaves no room between [CLS] and [SEP]")
    if config["fusion"] is not None:
        config["fusion"] = {**DEFAULT_FUSION, **config["fusion"]}
    config["token_selection"] = {**DEFAULT_SELECTION, **config["token_selection"]}
    check_model(config)
    if config["tokenizer"] is None and isinstance(config["bert_base_path"], Mapping):
        raise EncoderError(
            "bert_base_path: a text encoder built from a configuration has no vocabulary of its own; set "
            "net_config['tokenizer'], for instance to learn_wordpiece(captions)"
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
    if torch.onnx.is_in_onnx_export():  # which would write these texts into the graph as constants
        raise InputError(f"{name}: strings cannot be inputs of an ONNX graph; t2ireid export RUN OUT --onnx writes one")
    return list(texts)
