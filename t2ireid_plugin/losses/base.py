"""Interface of a loss term: the batch that it reads, and the module that it is."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError


class LossInputs(NamedTuple):
    """A batch of `B` photos with their texts as the losses see it; fields that the model did not return are None.

    Two rows with equal `photos` come from the same image file (a photo has several captions), so their `pids` are
    equal too.
    """

    pids: Tensor  # [B] long, identity labels 0..P-1
    photos: Tensor  # [B] long, equal where two rows come from the same image file
    image_embeds: Tensor | None = None  # [B, 256] unit norm
    id_text_embeds: Tensor | None = None  # [B, 256] unit norm
    fused_embeds: Tensor | None = None  # [B, 256] unit norm, the pair's own image and text; [B, 512] of both branches
    id_logits: Tensor | None = None  # [B, num_classes]
    id_embeds: Tensor | None = None  # [B, 768] gated, not normalised
    cloth_embeds: Tensor | None = None  # [B, 768] gated, not normalised
    cloth_text_embeds: Tensor | None = None  # [B, 256] unit norm
    cloth_image_embeds: Tensor | None = None  # [B, 256] unit norm
    gate: Tensor | None = None  # [B, 768] in 0..1
    gate_weights: Tensor | None = None  # [B, 2]
    scale: Tensor | None = None  # [1], the model's learnable parameter
    image_tokens: Tensor | None = None  # [B, L, 768]
    word_tokens: Tensor | None = None  # [B, W, 768], of texts with hidden words
    word_mask: Tensor | None = None  # [B, W] 1 for words, 0 for padding
    hidden_words: Tensor | None = None  # [B, W] long, ids of the hidden words, -100 elsewhere
    outfits: Tensor | None = None  # [B] long, number among the person's outfits, -1 where it is unknown
    id_words: Tensor | None = None  # [B, V] 1 where the identity text has a frequent word, else 0
    cloth_words: Tensor | None = None  # [B, V] of the clothing text
    id_text_features: Tensor | None = None  # [B, 768] pooled identity text before projection, not normalised
    composed_embeds: Tensor | None = None  # [B, 512] unit norm, the image and the clothing text of another outfit
    composed_outfits: Tensor | None = None  # [B] long, the outfit of that text, -1 where the batch has none
    view_embeds: Tensor | None = None  # [B, 256] unit norm, of a second view of the image
    simclr_features: Tensor | None = None  # [B, 2, 768] not normalised, of two strongly changed views of the image
    selected_image_embeds: Tensor | None = None  # [B, E] of `TokenSelection`, not normalised
    selected_text_embeds: Tensor | None = None  # [B, E]
    clean: Tensor | None = None  # [B] 1 for a pair to learn from, 0 for one that is taken for noise
    epoch: float = 0.0  # completed epochs, for ramps; may be fractional
    step: int = 0  # training steps with this one, for terms that some steps leave out; at 0 all are computed
    progress: float = 0.0  # completed share of the training


MLM_INPUTS = ("image_tokens", "word_tokens", "word_mask", "hidden_words")  # filled only for one of MLM_TERMS
MLM_TERMS = ("mlm", "irr")  # they hide words by different rules, so a run has one of them
SELECTED = ("selected_image_embeds", "selected_text_embeds")  # filled only by a model with token selection

# Entries of a batch with further views of its images, by the field that the model makes of them.
VIEW_INPUTS = {"view_embeds": "view", "simclr_features": "simclr_views"}
# Only this package's own training has them.
RUN_INPUTS = ("outfits", "id_words", "cloth_words", "progress", *SELECTED, *VIEW_INPUTS)
WORD_INPUTS = frozenset(("id_words", "cloth_words"))


class LossTerm(nn.Module):
    """A module with plain arguments that maps a batch to a scalar, without its weight."""

    needs: ClassVar[tuple[str, ...]]  # the fields of LossInputs that it reads, besides `pids`
    several_photos: ClassVar[bool] = False  # True if it is 0 for batches with a single photo per person

    def __init__(self) -> None:
        super().__init__()


def read(inputs: LossInputs, *names: str) -> list[Tensor]:
    """The named tensors of `inputs`, in float32 at least; ConfigError where one is None."""
    tensors = []
    for name in names:
        tensor = getattr(inputs, name)
        if tensor is None:
            raise ConfigError(f"a loss needs {name}, which the model did not return for this batch")
        # A softmax at tau 0.02 spreads cosines over -50..50, where bfloat16 resolves steps of 0.25.
        tensors.append(tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor)
    return tensors
