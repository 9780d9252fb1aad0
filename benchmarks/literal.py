"""Literal transcription of the specification, which the model is measured against.

Its `DisentangleModule.forward` is the specification's listing line by line, without optimisation: attention takes the
sequence first and computes attention weights that are not used, `nn.MultiheadAttention`'s default; texts are padded to
the full length; identity and clothing texts pass BERT separately.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.modeling.fusion import build_fusion
from t2ireid_plugin.modeling.head import SHARED_DIM, projection_mlp
from t2ireid_plugin.modeling.t2ireid import DEFAULT_FUSION, EMBED_DIM, T2IReIDModel, T2IReIDOutput


class LiteralDisentangle(nn.Module):
    """The specification's `DisentangleModule`, tokens ``[B, L, D]`` to two features and a gate ``[B, D]``."""

    def __init__(self, dim: int, num_heads: int = 4) -> None:
        super().__init__()
        self.id_linear, self.cloth_linear = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.id_attn = nn.MultiheadAttention(dim, num_heads)
        self.cloth_attn = nn.MultiheadAttention(dim, num_heads)
        self.id_cross_attn = nn.MultiheadAttention(dim, num_heads)
        self.cloth_cross_attn = nn.MultiheadAttention(dim, num_heads)
        self.id_norm, self.cloth_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.id_cross_norm, self.cloth_cross_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The specification's listing."""
        id_feat = self.id_linear(x)
        id_feat = id_feat.transpose(0, 1)
        id_attn, _ = self.id_attn(query=id_feat, key=id_feat, value=id_feat)
        id_feat = id_attn.transpose(0, 1) + x
        id_feat = self.id_norm(id_feat)

        cloth_feat = self.cloth_linear(x)
        cloth_feat = cloth_feat.transpose(0, 1)
        cloth_attn, _ = self.cloth_attn(query=cloth_feat, key=cloth_feat, value=cloth_feat)
        cloth_feat = cloth_attn.transpose(0, 1) + x
        cloth_feat = self.cloth_norm(cloth_feat)

        id_cross, _ = self.id_cross_attn(
            query=id_feat.transpose(0, 1), key=cloth_feat.transpose(0, 1), value=cloth_feat.transpose(0, 1)
        )
        cloth_cross, _ = self.cloth_cross_attn(
            query=cloth_feat.transpose(0, 1), key=id_feat.transpose(0, 1), value=id_feat.transpose(0, 1)
        )
        id_feat = self.id_cross_norm(id_cross.transpose(0, 1) + id_feat)
        cloth_feat = self.cloth_cross_norm(cloth_cross.transpose(0, 1) + cloth_feat)

        id_feat = id_feat.mean(dim=1)
        cloth_feat = cloth_feat.mean(dim=1)
        gate = self.gate(torch.cat([id_feat, cloth_feat], dim=-1))
        return gate * id_feat, (1 - gate) * cloth_feat, gate


class LiteralModel(nn.Module):
    """The specification's `T2IReIDModel`, with the encoders, the tokenizer and the weights of ``model``.

    The encoders are the same objects; all else is a copy, by the same names.
    """

    def __init__(self, model: T2IReIDModel) -> None:
        super().__init__()
        width = model.visual_encoder.config.hidden_size
        self.text_encoder, self.visual_encoder = model.text_encoder, model.visual_encoder
        self.tokenizer, self.max_length = model.text_cache.tokenizer, model.text_cache.max_length
        self.disentangle = LiteralDisentangle(width)
        self.id_classifier = nn.Linear(width, model.id_classifier.out_features)
        self.shared_mlp = nn.Linear(width, SHARED_DIM)
        self.image_mlp = projection_mlp(SHARED_DIM, EMBED_DIM)
        self.text_mlp = projection_mlp(SHARED_DIM, EMBED_DIM)
        self.text_attn = nn.MultiheadAttention(width, 4, dropout=0.1)
        self.text_attn_norm = nn.LayerNorm(width)
        self.fusion = build_fusion(DEFAULT_FUSION, width)
        self.scale = nn.Parameter(torch.ones(1))
        self.load_state_dict(model.state_dict())

    def train(self, mode: bool = True) -> LiteralModel:
        """As `T2IReIDModel.train`: the frozen BERT stays in eval mode."""
        super().train(mode)
        self.text_encoder.eval()
        return self

    def encode_image(self, image: Tensor) -> Tensor:
        """Images ``[B, 3, 224, 224]`` to ``[B, 256]``."""
        id_embeds, _, _ = self.disentangle(self.visual_encoder(image).last_hidden_state)
        return F.normalize(self.image_mlp(self.shared_mlp(id_embeds)), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """``n`` texts to ``[n, 256]``."""
        encoded = self.tokenizer(
            list(texts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        input_ids, mask = encoded["input_ids"], encoded["attention_mask"]
        with torch.no_grad():
            text_embeds = self.text_encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        attended = text_embeds.transpose(0, 1)
        attended, _ = self.text_attn(attended, attended, attended, key_padding_mask=~mask.bool())
        text_embeds = self.text_attn_norm(attended.transpose(0, 1) + text_embeds)
        weights = mask.unsqueeze(-1)
        text_embeds = (text_embeds * weights).sum(dim=1) / weights.sum(dim=1)
        return F.normalize(self.text_mlp(self.shared_mlp(text_embeds)), dim=-1)

    def forward(self, image: Tensor, cloth_instruction: Sequence[str], id_instruction: Sequence[str]) -> T2IReIDOutput:
        """All outputs for ``B`` images with their texts."""
        id_embeds, cloth_embeds, gate = self.disentangle(self.visual_encoder(image).last_hidden_state)
        image_embeds = F.normalize(self.image_mlp(self.shared_mlp(id_embeds)), dim=-1)
        cloth_image_embeds = F.normalize(self.image_mlp(self.shared_mlp(cloth_embeds)), dim=-1)
        cloth_text_embeds = self.encode_text(cloth_instruction)
        id_text_embeds = self.encode_text(id_instruction)
        fused, gate_weights = self.fusion(image_embeds, id_text_embeds)
        return T2IReIDOutput(
            image_embeds=image_embeds,
            id_text_embeds=id_text_embeds,
            fused_embeds=F.normalize(self.scale * fused, dim=-1),
            id_logits=self.id_classifier(id_embeds),
            id_embeds=id_embeds,
            cloth_embeds=cloth_embeds,
            cloth_text_embeds=cloth_text_embeds,
            cloth_image_embeds=cloth_image_embeds,
            gate=gate,
            gate_weights=gate_weights,
        )
