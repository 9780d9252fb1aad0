"""The image backbone of an exported model for `AutoBackbone`, whose maps detection and segmentation models read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone, PreTrainedModel
from transformers.modeling_outputs import BackboneOutput

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.huggingface.model import T2IReIDConfig, T2IReIDForRetrieval
from t2ireid_plugin.modeling.encoders.backbones import image_reader
from t2ireid_plugin.modeling.encoders.loading import build_image_encoder

STAGE = "last"


class T2IReIDBackbone(PreTrainedModel):
    """The image encoder alone, with its last feature map; other stages differ between families of encoders.

    It has the attributes of transformers' backbones: ``stage_names``, ``out_features``, ``out_indices``, ``channels``.

    Args:
        config: of the whole model.
        encoder: the image encoder; None builds it with random weights.
    """

    config_class = T2IReIDConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True  # the encoder decides
    stage_names, out_features, out_indices = (STAGE,), (STAGE,), (0,)

    def __init__(self, config: T2IReIDConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.visual_encoder = build_image_encoder(config.vision_config) if encoder is None else encoder
        self.reader = image_reader(self.visual_encoder.config)
        self.channels = [self.reader.width]
        self.post_init()

    def forward(self, pixel_values: Tensor, return_dict: bool = True, **_: Any) -> BackboneOutput | tuple[Any, ...]:
        """Images ``[B, 3, H, W]`` to ``feature_maps``, one ``[B, D, h, w]`` of the patches without a class token.

        Raises:
            InputError: for a size that the encoder cannot read.
        """
        tokens, grid = self.reader.read(self.visual_encoder, pixel_values)
        patches = tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        output = BackboneOutput(feature_maps=(patches,))
        return output if return_dict else output.to_tuple()

    forward_with_filtered_kwargs = forward

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *,
        out_features: Sequence[str] = (STAGE,),
        out_indices: Sequence[int] = (0,),
        **kwargs: Any,
    ) -> T2IReIDBackbone:
        """Loads the backbone from an exported folder; the other arguments are those of `T2IReIDForRetrieval`.

        Raises:
            ConfigError: for another stage than the last.
            T2IReIDError: as `T2IReIDForRetrieval.from_pretrained`.
        """
        if list(out_features) != [STAGE] or list(out_indices) not in ([0], [-1]):
            raise ConfigError(
                f"out_features: {list(out_features)}, out_indices: {list(out_indices)}; valid: ['{STAGE}'], [0]"
            )
        whole = T2IReIDForRetrieval.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(whole.config, whole.model.visual_encoder).eval()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: the encoder initialises itself."""


AutoBackbone.register(T2IReIDConfig, T2IReIDBackbone, exist_ok=True)
