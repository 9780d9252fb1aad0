"""`T2IReIDModel` as a meta-architecture of FastReID, with the loss terms as its head.

The model is ``backbone`` and the terms are ``heads.losses``: in FastReID's checkpoints the model's names begin with
``backbone.``, and ``SOLVER.HEADS_LR_FACTOR`` applies to parameters of the terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, Baseline
from fastreid.utils.events import get_event_storage
from torch import Tensor, nn

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.engine.text_image import forward_for
from t2ireid_plugin.errors import ConfigError, check_choice
from t2ireid_plugin.integrations.fastreid.backbone import connected, image_source
from t2ireid_plugin.integrations.fastreid.checks import check_image_encoder
from t2ireid_plugin.integrations.fastreid.config import lower
from t2ireid_plugin.integrations.fastreid.loaders import build_tokenizer
from t2ireid_plugin.integrations.fastreid.parts import check_parts
from t2ireid_plugin.losses import LossInputs, LossTerms
from t2ireid_plugin.modeling.ranking import CLOTH_INSTRUCTIONS, ID_INSTRUCTIONS, Ranking
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

# Choices of T2IREID.ID_INSTRUCTION and CLOTH_INSTRUCTION, with the key of the text in a batch.
TEXT_KEYS = {"caption": "captions", "identity": "id_texts", "clothing": "cloth_texts"}


@REID_HEADS_REGISTRY.register()
class T2IReIDHead(nn.Module):
    """The weighted loss terms of ``T2IREID.LOSSES``."""

    @configurable
    def __init__(self, *, losses: LossTerms) -> None:
        super().__init__()
        self.losses = losses

    @classmethod
    def from_config(cls, cfg: CfgNode, model: T2IReIDModel) -> dict[str, LossTerms]:
        """Builds the terms for the embeddings of ``model``."""
        width, num_classes = model.id_classifier.in_features, model.id_classifier.out_features
        vocab_size = model.text_encoder.config.vocab_size
        return {"losses": LossTerms(to_dict(cfg.T2IREID.LOSSES), width, model.embed_dim, num_classes, vocab_size)}

    def forward(self, features: LossInputs, targets: Tensor | None = None) -> dict[str, Tensor]:
        """Each term times its weight as ``loss_<name>``; ``targets`` is unused, as ``features`` hold the identities."""
        values = self.losses.each(features)
        return {f"loss_{name}": value for name, value in self.losses.weighted(values).items()}


@META_ARCH_REGISTRY.register()
class T2IReIDBaseline(Baseline):
    """FastReID's baseline for images with texts.

    Args:
        id_instruction, cloth_instruction: text that describes the identity, and the clothing, see `TEXT_KEYS`.
        identity_weight: of the identity branch where both rank, see `Ranking`.
        **kwargs: FastReID's; the backbone is a `T2IReIDModel`, and the heads map `LossInputs` to losses.
    """

    backbone: T2IReIDModel
    heads: T2IReIDHead

    @configurable
    def __init__(
        self, *, id_instruction: str, cloth_instruction: str, identity_weight: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_choice("T2IREID.ID_INSTRUCTION", id_instruction, ID_INSTRUCTIONS)
        check_choice("T2IREID.CLOTH_INSTRUCTION", cloth_instruction, CLOTH_INSTRUCTIONS)
        if not 0 <= identity_weight <= 1:
            raise ConfigError(f"T2IREID.IDENTITY_WEIGHT: {identity_weight} must be from 0 to 1")
        self.backbone.ranking = Ranking.of_training(id_instruction, cloth_instruction, identity_weight)
        self.id_key, self.cloth_key = TEXT_KEYS[id_instruction], TEXT_KEYS[cloth_instruction]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds the arguments.

        Raises:
            ConfigError, EncoderError: as `T2IReIDModel` and `LossTerms`, and for settings that do not fit together.
        """
        check_parts(cfg)
        node, head = cfg.T2IREID, REID_HEADS_REGISTRY.get(cfg.MODEL.HEADS.NAME)
        if not (isinstance(head, type) and issubclass(head, T2IReIDHead)):
            raise ConfigError(f"MODEL.HEADS.NAME: {cfg.MODEL.HEADS.NAME} must be T2IReIDHead or a subclass")
        model = T2IReIDModel(
            {
                "vit_pretrained": image_source(cfg),
                "bert_base_path": node.BERT_BASE_PATH or to_dict(node.BERT_CONFIG),
                "num_classes": max(1, cfg.MODEL.HEADS.NUM_CLASSES),  # 0 for evaluation only
                "disentangle": lower(node.DISENTANGLE),
                "fusion": lower(node.FUSION),
                "freeze_text": node.FREEZE_TEXT,
                "freeze_image": node.FREEZE_IMAGE,
                "max_length": node.MAX_LENGTH,
                "projection": node.PROJECTION,
                "projection_dropout": node.PROJECTION_DROPOUT,
                "tokenizer": build_tokenizer(cfg),
            }
        )
        check_image_encoder(cfg, model.preprocess, model.visual_encoder.config, model.reader.width)
        return {
            "backbone": model,
            "heads": head(cfg, model=model),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "id_instruction": node.ID_INSTRUCTION,
            "cloth_instruction": node.CLOTH_INSTRUCTION,
            "identity_weight": float(node.IDENTITY_WEIGHT),
        }

    def forward(self, batched_inputs: Any) -> dict[str, Tensor] | Tensor:
        """Losses of a batch in training; in evaluation the vectors of images or captions that the ranking compares.

        Args:
            batched_inputs: in training ``images [B, 3, H, W]`` from 0 to 255, ``targets [B]``, ``img_paths`` and the
                texts of `TEXT_KEYS`; in evaluation ``images``, or ``captions``, or a tensor of images.
        """
        if not self.training:
            if isinstance(batched_inputs, Tensor) or "images" in batched_inputs:
                return self.backbone.encode_gallery(self.preprocess_image(batched_inputs))
            return self.backbone.encode_query(list(batched_inputs["captions"]))
        losses = self.heads(self._loss_inputs(batched_inputs))
        name = next(iter(losses))
        losses[name] = connected(losses[name], self)  # not all terms use all parameters
        return losses

    def preprocess_image(self, batched_inputs: Mapping[str, Any] | Tensor) -> Tensor:
        """Normalised images on the model's device; unlike FastReID's version it does not modify the batch."""
        images = batched_inputs if isinstance(batched_inputs, Tensor) else batched_inputs["images"]
        return (images.to(self.device) - self.pixel_mean) / self.pixel_std

    def _loss_inputs(self, batch: Mapping[str, Any]) -> LossInputs:
        numbers = {path: i for i, path in enumerate(dict.fromkeys(batch["img_paths"]))}
        photos = torch.tensor([numbers[path] for path in batch["img_paths"]], device=self.device)
        id_texts, cloth_texts = list(batch[self.id_key]), list(batch[self.cloth_key])
        images, step = self.preprocess_image(batch), 1 + int(getattr(get_event_storage(), "iter", -1))
        output = forward_for(self.heads.losses, self.backbone, images, id_texts, cloth_texts, step)
        return LossInputs(
            pids=batch["targets"].to(self.device),
            photos=photos,
            scale=self.backbone.scale,
            epoch=float(getattr(get_event_storage(), "epoch", 0)),
            step=step,
            **output,
        )
