"""Random changes of images by torchvision's transforms, with the settings of TBPS-CLIP's code."""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.data.sampling import seeded


def two_of_six(pixels: Pixels, source: random.Random) -> Pixels:
    """Two draws, perhaps of the same one: small jitter, rotation, crop, grey, mirroring and erasing to black."""
    size = pixels.shape[:2]
    changes = [
        transforms.ColorJitter(0.1, 0.1, 0.1, 0),
        transforms.RandomRotation(15),
        transforms.RandomResizedCrop(size, (0.9, 1.0), antialias=True),
        transforms.RandomGrayscale(),
        transforms.RandomHorizontalFlip(),
        transforms.RandomErasing(scale=(0.1, 0.2)),
    ]
    chosen = transforms.Compose(source.choices(changes, k=2))
    with seeded(source.getrandbits(32)):  # the transforms draw from the global generators
        changed: torch.Tensor = chosen(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    return changed.permute(1, 2, 0).contiguous().numpy()


def simclr_view(pixels: Pixels, height: int, width: int, source: random.Random) -> Pixels:
    """A view for `losses.simclr`, of ``height`` x ``width``, from an image of any size.

    The changes of SimCLR (Chen et al. 2020, appendix A) with half of its jitter, as in TBPS-CLIP's code.
    """
    changes = transforms.Compose(
        [
            transforms.RandomResizedCrop((height, width), (0.2, 1.0), antialias=True),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([_blur], p=0.5),
            transforms.RandomHorizontalFlip(),
        ]
    )
    with seeded(source.getrandbits(32)):  # the transforms draw from the global generators
        return np.array(changes(Image.fromarray(pixels)))


def _blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
