"""Image models of torchreid and timm as models of transformers, so that they are configured, stored and exported alike.

``torchreid:NAME`` and ``timm:NAME`` name a model with the library's pretrained weights; the configuration
``{"model_type": "torchreid", "architecture": NAME}`` one with random weights. The model is the attribute ``network``.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from t2ireid_plugin.errors import ConfigError, EncoderError, InputError, check_choice
from t2ireid_plugin.modeling.encoders.sources import TORCHREID_MODELS
from t2ireid_plugin.utils.text import first_line

_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_PROBE = 64  # pixels of the image that shows the width of a feature map


class LibraryConfig(PretrainedConfig):
    """A model by its name in another library; the other values are completed when the model is built.

    Args:
        architecture: the library's name.
        hidden_size: width of the tokens.
        feature_map: whether the model returns a map ``[B, D, h, w]``, and not tokens.
        patch_size: of a model that returns tokens.
        image_size: height and width in pixels by default.
        image_mean, image_std: normalisation of pixels.
    """

    def __init__(
        self,
        architecture: str = "",
        hidden_size: int | None = None,
        feature_map: bool = True,
        patch_size: tuple[int, int] | None = None,
        image_size: tuple[int, int] = (256, 128),
        image_mean: tuple[float, ...] = _IMAGENET["image_mean"],
        image_std: tuple[float, ...] = _IMAGENET["image_std"],
        **kwargs: Any,
    ) -> None:
        self.architecture, self.hidden_size, self.feature_map = architecture, hidden_size, feature_map
        self.image_size, self.image_mean, self.image_std = image_size, image_mean, image_std
        if patch_size is not None:
            self.patch_size = patch_size
        super().__init__(**kwargs)


class LibraryModel(PreTrainedModel):
    """Images ``[B, 3, H, W]`` to ``last_hidden_state``: a map ``[B, D, h, w]`` or tokens ``[B, L, D]``."""

    main_input_name = "pixel_values"

    def __init__(self, config: LibraryConfig, pretrained: bool = False) -> None:
        super().__init__(config)
        self.network = self.create(config.architecture, pretrained)
        if config.hidden_size is None:
            self.describe()
        self.post_init()

    def create(self, architecture: str, pretrained: bool) -> nn.Module:
        """The library's model without its classifier.

        Raises:
            ConfigError: for a name that the library does not have.
            EncoderError: when its pretrained weights cannot be loaded.
        """
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """The map or the tokens of images ``[B, 3, H, W]``."""
        raise NotImplementedError

    def describe(self) -> None:
        """Completes the configuration from the model: by default the width of its map."""
        self.config.hidden_size = self._probe(_PROBE, _PROBE)[1]

    def _probe(self, height: int, width: int) -> torch.Size:
        """The shape of the features of one image."""
        device = next(self.network.parameters()).device
        self.network.eval()
        with torch.no_grad():
            shape = self.features(torch.zeros(1, 3, height, width, device=device)).shape
        self.network.train()
        return shape

    def _init_weights(self, module: nn.Module) -> None:
        """Keeps the library's initial weights."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """Images ``[B, 3, H, W]`` to ``last_hidden_state``, see the class."""
        return BaseModelOutput(last_hidden_state=self.features(pixel_values))


class TorchreidConfig(LibraryConfig):
    """A model of torchreid's that has a feature map."""

    model_type = "torchreid"
    __init__ = LibraryConfig.__init__  # transformers 5 would make one of its own


class TorchreidModel(LibraryModel):
    """The feature map of a model of torchreid's, before its pooling."""

    config_class = TorchreidConfig

    def create(self, architecture: str, pretrained: bool) -> nn.Module:
        """torchreid's model; its pooling, projection and classifier have no parameters left."""
        from torchreid import models

        check_choice("torchreid", architecture, TORCHREID_MODELS)
        try:
            with warnings.catch_warnings():  # torchreid only warns where it has no weights
                warnings.filterwarnings("error", message=".*(manually downloaded|cannot be loaded)")
                network: nn.Module = models.build_model(architecture, 1, pretrained=pretrained, use_gpu=False)
        except Exception as error:
            if not pretrained:
                raise
            raise EncoderError(
                f"torchreid:{architecture}: torchreid cannot get its pretrained weights ({first_line(error)}); for "
                f"random weights configure {{model_type: torchreid, architecture: {architecture}}}"
            ) from error
        for name in ("global_avgpool", "fc", "classifier"):
            setattr(network, name, nn.Identity())
        return network

    def features(self, images: Tensor) -> Tensor:
        """The map ``[B, D, h, w]``."""
        feature_map: Tensor = self.network.featuremaps(images)  # type: ignore[operator]
        return feature_map


class TimmConfig(LibraryConfig):
    """A model of timm's."""

    model_type = "timm"
    __init__ = LibraryConfig.__init__


class TimmModel(LibraryModel):
    """timm's ``forward_features``: a feature map, or tokens of a model with patches."""

    config_class = TimmConfig

    def create(self, architecture: str, pretrained: bool) -> nn.Module:
        """timm's model without classifier; one with positions for a size interpolates them."""
        import timm

        if not timm.is_model(architecture):
            near = ", ".join(timm.list_models(f"*{architecture.partition('_')[0]}*")[:10]) or "resnet50"
            raise ConfigError(f"timm: unknown {architecture!r}; valid: timm.list_models(), such as {near}")
        options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
        try:
            try:
                return timm.create_model(architecture, dynamic_img_size=True, **options)
            except TypeError:  # no positions for a size
                return timm.create_model(architecture, **options)
        except Exception as error:
            if not pretrained:
                raise
            raise EncoderError(
                f"timm:{architecture}: timm cannot get its pretrained weights ({first_line(error)}); for random "
                f"weights configure {{model_type: timm, architecture: {architecture}}}"
            ) from error

    def features(self, images: Tensor) -> Tensor:
        """The map ``[B, D, h, w]`` or the tokens ``[B, L, D]``; registers without a class token are left out."""
        network: Any = self.network
        try:
            features: Tensor = network.forward_features(images)
        except AssertionError as error:  # windows or layers for one size
            size = f"{images.shape[2]} x {images.shape[3]}"
            raise InputError(f"timm:{self.config.architecture} cannot read images of {size} pixels: {error}") from error
        if features.dim() == 4:
            return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else features
        prefix = getattr(network, "num_prefix_tokens", 0)
        return features if getattr(network, "has_class_token", prefix) else features[:, prefix:]

    def describe(self) -> None:
        """Width, kind of output, size and normalisation from timm's own description.

        Raises:
            ConfigError: for a model that returns neither a map nor tokens in the ways that are read here.
        """
        network: Any = self.network
        settings = network.pretrained_cfg
        self.config.image_size = tuple(settings["input_size"][1:])
        self.config.image_mean, self.config.image_std = settings["mean"], settings["std"]
        patches = getattr(network, "patch_embed", None)
        if hasattr(network, "num_prefix_tokens") and patches is not None:
            self.config.feature_map, self.config.patch_size = False, tuple(patches.patch_size)
            self.config.hidden_size = network.num_features
        elif len(shape := self._probe(*self.config.image_size)) == 4:
            self.config.hidden_size = shape[1]
        else:
            raise ConfigError(f"timm: {self.config.architecture} returns neither a feature map nor a class token")


for _config, _model in ((TorchreidConfig, TorchreidModel), (TimmConfig, TimmModel)):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
