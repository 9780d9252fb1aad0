"""CLIP's image encoder for images of one size that need not be square, with patches that may overlap."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GridEmbeddings(nn.Module):
    """CLIP's class, patch and position embeddings under transformers' names, without its check for squares.

    Args:
        own: transformers' module, whose parameters are taken over.
        positions: ``[1 + rows * columns, D]``, those of the class token first.
        stride: pixels from each patch to the next.
    """

    def __init__(self, own: Any, positions: Tensor, stride: int) -> None:
        super().__init__()
        self.class_embedding = own.class_embedding
        self.patch_embedding = own.patch_embedding
        self.patch_embedding.stride = (stride, stride)
        self.position_embedding = nn.Embedding.from_pretrained(positions, freeze=False)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Images ``[B, 3, H, W]`` to ``[B, L, D]``; the argument is transformers', and never set for this size."""
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return tokens + self.position_embedding.weight


def resize_grid(encoder: PreTrainedModel, height: int, width: int, stride: int, mode: str) -> None:
    """Resizes the positions of a CLIP image encoder once, to the patches of images of ``height`` x ``width``.

    As IRRA does at loading (Jiang and Ye, CVPR 2023). The encoder's configuration then has this ``image_size`` and
    ``patch_stride``, from which `grid_encoder` builds it again.

    Args:
        encoder: changed in place.
        height, width: in pixels.
        stride: pixels from each patch to the next; 0 for the patch size.
        mode: ``bilinear`` or ``bicubic``.

    Raises:
        ConfigError: for another encoder than CLIP's.
    """
    config: Any = encoder.config
    if config.model_type != "clip_vision_model":
        raise ConfigError(f"model.positions: {mode} needs CLIP's image encoder, not {config.model_type}; set it to ''")
    patch, stride = config.patch_size, stride or config.patch_size
    size = (height - patch) // stride + 1, (width - patch) // stride + 1
    tower: Any = getattr(encoder, "vision_model", encoder)  # transformers 4 has it one level deeper
    own = tower.embeddings.position_embedding.weight.detach()
    side = round((len(own) - 1) ** 0.5)
    grid = own[1:].T.reshape(1, -1, side, side)
    if size != (side, side):
        grid = F.interpolate(grid, size, mode=mode)
    tower.embeddings = GridEmbeddings(tower.embeddings, torch.cat([own[:1], grid[0].flatten(1).T]), stride)
    config.image_size, config.patch_stride = [height, width], stride


def grid_encoder(model_class: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """The encoder that `resize_grid` described, with random weights; others are not for ``config.patch_stride``."""
    square = copy.deepcopy(config)
    square.image_size = square.patch_size
    encoder = model_class(square)
    height, width = config.image_size
    resize_grid(encoder, height, width, config.patch_stride, "bilinear")
    return encoder
