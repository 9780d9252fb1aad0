"""How images become tokens in each kind of image encoder: one `TokenReader` per kind, found by `token_reader`.

An image encoder is a model of transformers, possibly one of `libraries`. A reader needs only its configuration, so that
sizes are checked before anything is built; PyTorch is imported on use.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from t2ireid_plugin.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

DEFAULT_SIZE = (224, 224)  # of feature maps whose configuration has no image size
_MIN_SIDE = 32  # pixels, the stride of most convolutional encoders


class ImageTokens(NamedTuple):
    """Tokens of images and the grid that the last of them form."""

    tokens: Tensor  # [B, L, D]: class token and registers where there are any, then the patches row by row
    grid: tuple[int, int]  # rows and columns of the patches


class TokenReader:
    """Reads an encoder that returns a token per square patch, as a ViT; the base of the other kinds.

    Args:
        config: the encoder's configuration, or an object with some of its attributes.
    """

    feature_map = False  # whether the tokens are the places of a feature map

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def width(self) -> int:
        """Width ``D`` of the tokens."""
        sizes = getattr(self.config, "hidden_sizes", None)
        return int(sizes[-1] if sizes else self.config.hidden_size)

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width in pixels that the encoder was built for."""
        return _height_and_width(self.config.image_size)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return _height_and_width(self.config.patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of patches of an image; None where only the encoder knows."""
        rows, columns = self.patch_size
        return height // rows, width // columns

    def check_size(self, height: int, width: int) -> None:
        """Checks that the encoder reads images of this size without losing an edge.

        Raises:
            InputError: unless height and width are the encoder's own or multiples of its patch size.
        """
        rows, columns = self.patch_size
        divides = height % rows == width % columns == 0
        if not divides and ((height, width) != self.own_size or height < rows or width < columns):
            near = f"{max(1, round(height / rows)) * rows} x {max(1, round(width / columns)) * columns}"
            raise InputError(
                f"images of {height} x {width} pixels (height x width) do not divide into the {rows} x {columns} "
                f"patches of {self.config.model_type}; the nearest size is {near}"
            )

    def read(self, encoder: PreTrainedModel, images: Tensor) -> ImageTokens:
        """Images ``[B, 3, H, W]`` to normalised tokens.

        Raises:
            InputError: as `check_size`, or for a size to which the encoder's positions cannot be interpolated.
        """
        height, width = images.shape[-2:]
        self.check_size(height, width)
        grid = self.grid(height, width)
        assert grid is not None
        return ImageTokens(self._tokens(encoder, images), grid)

    def _tokens(self, encoder: PreTrainedModel, images: Tensor) -> Tensor:
        """The tokens ``[B, L, D]``.

        For another size than the encoder's own, transformers interpolates the position embeddings; DINOv3 has rotary
        positions and does not need that.
        """
        options = self._interpolation(encoder, *images.shape[-2:])
        tokens: Tensor = encoder(images, **options).last_hidden_state
        return tokens

    def _interpolation(self, encoder: PreTrainedModel, height: int, width: int) -> dict[str, bool]:
        """Arguments that make the encoder interpolate its positions, if that is needed."""
        own, kind = self.own_size, self.config.model_type
        on_request = interpolates_on_request(encoder)
        needed = (height, width) != own
        if own[0] != own[1] and (kind.startswith("dinov2") or (on_request and needed)):
            raise InputError(
                f"{kind} with positions for {own[0]} x {own[1]} pixels cannot read images of {height} x {width}: "
                "transformers interpolates from squares only"
            )
        return {"interpolate_pos_encoding": True} if on_request and needed else {}


class ClipReader(TokenReader):
    """CLIP normalises only the class token, in its pooler; here all tokens are, as in IRRA and RDE.

    An encoder with a ``patch_stride``, see `grid.resize_grid`, reads images of one size.
    """

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """As `TokenReader.grid`, of patches that may overlap."""
        (rows, columns), stride = self.patch_size, getattr(self.config, "patch_stride", 0)
        fixed = stride and ((height - rows) // stride + 1, (width - columns) // stride + 1)
        return fixed or super().grid(height, width)

    def check_size(self, height: int, width: int) -> None:
        """As `TokenReader.check_size`.

        Raises:
            InputError: also for another size than that of resized positions.
        """
        if getattr(self.config, "patch_stride", 0) and (height, width) != self.own_size:
            own = " x ".join(map(str, self.own_size))
            raise InputError(f"images of {height} x {width} pixels: the positions of this model are for {own}")
        super().check_size(height, width)

    def _tokens(self, encoder: PreTrainedModel, images: Tensor) -> Tensor:
        tokens = super()._tokens(encoder, images)
        return getattr(encoder, "vision_model", encoder).post_layernorm(tokens)


class Siglip2Reader(TokenReader):
    """SigLIP 2 reads flattened patches instead of pixels, and its configuration has the patches of a square."""

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width of that square."""
        return _height_and_width(int(self.config.num_patches**0.5) * self.config.patch_size)

    def _tokens(self, encoder: PreTrainedModel, images: Tensor) -> Tensor:
        tokens: Tensor = encoder(**_as_patches(images, self.patch_size[0])).last_hidden_state
        return tokens


class MapReader(TokenReader):
    """Reads a feature map ``[B, D, h, w]`` of an encoder for images of any size, such as a ResNet; no class token."""

    feature_map = True

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width of the encoder's configuration, if it has them."""
        return _height_and_width(getattr(self.config, "image_size", None) or DEFAULT_SIZE)

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """None: the places of a map depend on its layers' padding."""
        return None

    def check_size(self, height: int, width: int) -> None:
        """Checks that something is left of the image.

        Raises:
            InputError: for a side of less than 32 pixels.
        """
        if min(height, width) < _MIN_SIDE:
            raise InputError(
                f"images of {height} x {width} pixels (height x width) are too small for {self.config.model_type}; "
                f"each side must have at least {_MIN_SIDE}"
            )

    def read(self, encoder: PreTrainedModel, images: Tensor) -> ImageTokens:
        """Images ``[B, 3, H, W]`` to the places of the map, row by row.

        Raises:
            InputError: as `check_size`.
        """
        self.check_size(*images.shape[-2:])
        return flatten_map(encoder(images).last_hidden_state)


class ConvNextReader(MapReader):
    """ConvNeXt's last norm follows its pooling; here each place is normalised, so that the norm stays in use."""

    def read(self, encoder: PreTrainedModel, images: Tensor) -> ImageTokens:
        """As `MapReader.read`."""
        tokens, grid = super().read(encoder, images)
        return ImageTokens(encoder.layernorm(tokens), grid)


class SwinReader(MapReader):
    """Swin returns the places of its map as tokens, and pads images that do not divide."""

    @property
    def _stride(self) -> int:
        return int(self.config.patch_size) * 2 ** (len(self.config.depths) - 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns after the last stage; each stage halves them, rounding up."""
        return -(-height // self._stride), -(-width // self._stride)

    def check_size(self, height: int, width: int) -> None:
        """As `MapReader.check_size`, and checks that windows fit; Swin V2 has biases for smaller ones.

        Raises:
            InputError: for a side that leaves less than a window.
        """
        super().check_size(height, width)
        window = self.config.window_size
        if self.config.model_type == "swin" and min(self.grid(height, width)) < window:
            raise InputError(
                f"images of {height} x {width} pixels (height x width) are too small for the {window} x {window} "
                f"windows of swin; each side must have more than {(window - 1) * self._stride}, or take swinv2"
            )

    def read(self, encoder: PreTrainedModel, images: Tensor) -> ImageTokens:
        """As `MapReader.read`."""
        return TokenReader.read(self, encoder, images)


_READERS: dict[str, type[TokenReader]] = {
    "clip_vision_model": ClipReader,
    "siglip2_vision_model": Siglip2Reader,
    "convnext": ConvNextReader,
    "convnextv2": ConvNextReader,
    "swin": SwinReader,
    "swinv2": SwinReader,
}


def token_reader(config: Any) -> TokenReader | None:
    """The reader of an encoder with this configuration; None for an encoder that is not for images.

    Other families than those above are read as a ViT if they have patches, and as a feature map if they have the widths
    of stages (``hidden_sizes``) or say so (``feature_map``).
    """
    if reader := _READERS.get(getattr(config, "model_type", "")):
        return reader(config)
    if getattr(config, "feature_map", False) or (hasattr(config, "hidden_sizes") and not hasattr(config, "patch_size")):
        return MapReader(config)
    return TokenReader(config) if hasattr(config, "patch_size") else None


def image_reader(config: Any) -> TokenReader:
    """The reader of an image encoder."""
    reader = token_reader(config)
    assert reader is not None, "not an image encoder"
    return reader


def image_tokens(encoder: PreTrainedModel, images: Tensor) -> ImageTokens:
    """Images ``[B, 3, H, W]`` to the tokens of any image encoder, see `TokenReader.read`."""
    return image_reader(encoder.config).read(encoder, images)


def flatten_map(feature_map: Tensor) -> ImageTokens:
    """A feature map ``[B, C, H, W]`` to tokens ``[B, H * W, C]`` and its grid."""
    rows, columns = feature_map.shape[-2:]
    return ImageTokens(feature_map.flatten(2).transpose(1, 2), (rows, columns))


def pooled_token(tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """``[B, L, D]`` to ``[B, D]``: the first token if there are more than the grid's, as a class token, else the mean.

    Without a ``grid`` it is the mean.
    """
    has_class_token = grid is not None and tokens.shape[1] > grid[0] * grid[1]
    return tokens[:, 0] if has_class_token else tokens.mean(dim=1)


def num_prefix_tokens(encoder: PreTrainedModel) -> int:
    """Number of tokens in front of the patches: the class token, if there is one, and registers."""
    shapes = {name.rpartition(".")[2]: parameter.shape for name, parameter in encoder.named_parameters()}
    single = sum(name in shapes for name in ("cls_token", "class_embedding", "distillation_token", "dist_token"))
    if "reg_token" in shapes:  # timm's, which `libraries` leaves out without a class token
        return single + int(shapes["reg_token"][1]) if single else 0
    return single + int(getattr(encoder.config, "num_register_tokens", 0))


_interpolates_on_request: dict[type, bool] = {}


def interpolates_on_request(encoder: PreTrainedModel) -> bool:
    """True if the encoder's forward has an argument to interpolate positions.

    The answer is cached per class before compilation, because a compiler cannot trace `inspect.signature`.
    """
    kind = type(encoder)
    if kind not in _interpolates_on_request:
        parameters = inspect.signature(kind.forward).parameters
        _interpolates_on_request[kind] = "interpolate_pos_encoding" in parameters
    return _interpolates_on_request[kind]


def _height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _as_patches(images: Tensor, patch: int) -> dict[str, Tensor]:
    """Images ``[B, 3, H, W]`` as SigLIP 2 reads them: flattened patches, each pixel with its three channels."""
    import torch

    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    patches = images[:, :, : rows * patch, : columns * patch].reshape(batch, channels, rows, patch, columns, patch)
    pixels = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)  # [B, h * w, patch * patch * 3]
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(pixels.shape[:2], dtype=torch.long, device=images.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch, device=images.device),
    }
