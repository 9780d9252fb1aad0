"""One batch through the model, for the losses that a configuration names."""

from __future__ import annotations

from torch import Tensor

from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel


def forward_for(
    losses: LossTerms, model: T2IReIDModel, images: Tensor, id_texts: list[str], cloth_texts: list[str]
) -> dict[str, Tensor | None]:
    """What the model returns of a batch, by the names of `LossInputs`; texts that no term reads are left out."""
    needs = losses.needs
    clothing = cloth_texts if "cloth_text_embeds" in needs else None
    if losses.hidden_share is not None:
        output, masked = model.forward_masked(images, clothing, id_texts, losses.hidden_share)
        return {**output._asdict(), **masked._asdict()}
    identity = id_texts if needs & {"id_text_embeds", "fused_embeds", "gate_weights"} else None
    return model(images, cloth_instruction=clothing, id_instruction=identity)._asdict()
