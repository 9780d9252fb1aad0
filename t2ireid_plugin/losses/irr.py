"""`irr`: IRRA's implicit relation reasoning, hidden words predicted by cross-attention to the image."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, short_repr
from t2ireid_plugin.losses.arguments import flag, number
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read


class QuickGELU(nn.Module):
    """CLIP's activation x · sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * (1.702 * x).sigmoid()


class ImplicitRelations(LossTerm):
    """Cross-entropy of hidden words, predicted from word tokens `[B, W, D]` that attend to image tokens `[B, L, D]`.

    IRRA (Jiang and Ye, CVPR 2023) as in the authors' code: cross-attention without a residual, then CLIP's blocks over
    the words, padding included and without a mask, and a head of its own. Texts are masked by
    `modeling.masking.hide_tokens`. Names of parameters contain the words by which the authors choose learning rates
    (`train.lr_factors`).

    Args:
        feature_dim: `D`; a head of the attentions has a width of 64.
        vocab_size: number of words of the text encoder.
        share: share of the words that are hidden.
        num_layers: blocks after the cross-attention.
        masked_captions: all other losses read the captions with hidden words too, as in the authors' code, where both
            are one array.
    """

    needs = ("image_tokens", "word_tokens", "hidden_words")

    def __init__(
        self,
        feature_dim: int = 512,
        vocab_size: int = 49408,
        share: float = 0.15,
        num_layers: int = 4,
        masked_captions: bool = True,
    ) -> None:
        super().__init__()
        self.share = number("share", share, low=0.0, high=1.0)
        self.masked_captions = flag("masked_captions", masked_captions)
        if type(num_layers) is not int or num_layers < 1:
            raise ConfigError(f"num_layers must be a whole number above 0, got {short_repr(num_layers)}")
        width, heads = feature_dim, max(1, feature_dim // 64)
        self.ln_pre_t, self.ln_pre_i, self.ln_post = (nn.LayerNorm(width) for _ in range(3))
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_modal_transformer = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation=QuickGELU(), batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.mlm_head = nn.Sequential(
            nn.Linear(width, width), QuickGELU(), nn.LayerNorm(width), nn.Linear(width, vocab_size)
        )
        projection, linear = (2 * width * num_layers) ** -0.5, (2 * width) ** -0.5
        self._initialise(
            {
                "in_proj_weight": width**-0.5,
                **dict.fromkeys(("out_proj.weight", "linear2.weight", "mlm_head.3.weight"), projection),
                **dict.fromkeys(("linear1.weight", "mlm_head.0.weight"), linear),
            }
        )

    def _initialise(self, deviations: Mapping[str, float]) -> None:
        """Draws the matrices with the authors' standard deviations, by the ends of names; biases keep PyTorch's."""
        for name, parameter in self.named_parameters():
            for end, deviation in deviations.items():
                if name.endswith(end):
                    nn.init.normal_(parameter, std=deviation)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over all hidden words of the batch, a scalar; 0 when none is hidden."""
        image, words, hidden = read(inputs, *self.needs)
        image = self.ln_pre_i(image)
        x = self.cross_attn(self.ln_pre_t(words), image, image, need_weights=False)[0]  # [B, W, D]
        for block in self.cross_modal_transformer:
            x = block(x)
        is_hidden = hidden >= 0  # [B, W]
        logits = self.mlm_head(self.ln_post(x)[is_hidden])  # [hidden words, vocab_size]
        return F.cross_entropy(logits, hidden[is_hidden], reduction="sum") / is_hidden.sum().clamp(min=1)
