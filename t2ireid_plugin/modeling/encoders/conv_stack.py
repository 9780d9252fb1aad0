"""A small convolutional image encoder for training from scratch on a CPU, as a model of transformers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class ConvStackConfig(PretrainedConfig):
    """Channels of each stride-2 convolution, and the size in pixels that images have by default.

    Raises:
        ValueError: unless ``patch_size`` is the total stride, ``2 ** len(channels)``.
    """

    model_type = "conv_stack"

    def __init__(
        self,
        channels: Sequence[int] = (24, 48, 96, 128),
        hidden_size: int = 128,
        image_size: int | Sequence[int] = (96, 48),
        patch_size: int = 16,
        **kwargs: Any,
    ) -> None:
        self.channels, self.hidden_size = channels, hidden_size
        self.image_size, self.patch_size = image_size, patch_size
        if patch_size != 2 ** len(channels):
            raise ValueError(
                f"patch_size {patch_size} must be {2 ** len(channels)}, the stride of all channels' stages"
            )
        super().__init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Number of convolutions."""
        return len(self.channels)


class ConvStackModel(PreTrainedModel):
    """3x3 convolutions of stride 2 with batch normalisation and ReLU, a 1x1 convolution, and layer normalisation.

    Images ``[B, 3, H, W]`` become tokens ``[B, H/16 * W/16, D]`` row by row; there is no class token.
    """

    config_class = ConvStackConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvStackConfig) -> None:
        super().__init__(config)
        widths = [3, *config.channels]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
            )
            for before, after in itertools.pairwise(widths)
        )
        self.projection = nn.Linear(widths[-1], config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keeps PyTorch's initial weights."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """Images ``[B, 3, H, W]`` to ``last_hidden_state [B, L, D]``."""
        # The convolutions follow their input's layout, and on a CPU this one is faster.
        maps = pixel_values.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            maps = block(maps)
        return BaseModelOutput(last_hidden_state=self.norm(self.projection(maps.flatten(2).transpose(1, 2))))


AutoConfig.register(ConvStackConfig.model_type, ConvStackConfig)
AutoModel.register(ConvStackConfig, ConvStackModel)
