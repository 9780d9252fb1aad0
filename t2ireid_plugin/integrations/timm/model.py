"""An image backbone with our head as a model of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from t2ireid_plugin.engine.training_state import checkpoint_to_test
from t2ireid_plugin.errors import CheckpointError, ConfigError, InputError, check_keys
from t2ireid_plugin.integrations.timm.registration import MODELS
from t2ireid_plugin.integrations.torchreid.registration import MODELS as IMAGE_RUN_MODELS
from t2ireid_plugin.modeling.checkpoint import Checkpoint, copy_state_dict
from t2ireid_plugin.modeling.encoders.backbones import num_prefix_tokens
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY
from t2ireid_plugin.modeling.encoders.sources import library_model
from t2ireid_plugin.modeling.image_embedder import ImageEmbedder
from t2ireid_plugin.modeling.ranking import BOTH
from t2ireid_plugin.modeling.stored import read_stored

_HEAD = ("branch", "disentangle", "projection", "projection_dropout", "fusion")
# Options of timm's models that are accepted with the one value that changes nothing.
_NEUTRAL = {"in_chans": 3, "drop_rate": 0, "drop_path_rate": 0}
# Arguments that timm always passes; weights come from `pretrained` and `pretrained_folder` alone.
_OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


class T2IReIDTimmModel(ImageEmbedder):
    """Embeddings ``[B, 256]`` of unit norm, or with ``num_classes`` the logits ``[B, num_classes]``.

    Its weights have the names that they have in `T2IReIDModel`. ``pretrained_cfg`` has the size and the normalisation
    for timm's ``resolve_model_data_config``; ``num_features`` is the width of ``forward_features`` and
    ``head_hidden_size`` that of the embeddings, as in timm's own models.

    Args:
        architecture: a name in `MODELS`.
        **options: of `ImageEmbedder`.
    """

    def __init__(self, architecture: str, **options: Any) -> None:
        super().__init__(**options)
        self.architecture = architecture
        self.num_features = self.reader.width
        self.head_hidden_size = self.feature_dim
        self.num_prefix_tokens = num_prefix_tokens(self.visual_encoder)
        self.num_classes = options.get("num_classes", 0)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Size, normalisation and classifier, under timm's keys."""
        height, width, mean, std = self.preprocess
        return {
            "architecture": self.architecture,
            "input_size": (3, height, width),
            "mean": mean,
            "std": std,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",  # the whole image at that size
            "num_classes": self.num_classes,
            "classifier": "classifier",
        }

    default_cfg = pretrained_cfg

    def set_size(self, size: tuple[int, int]) -> None:
        """Sets the height and width of images.

        Raises:
            InputError: for a size that the encoder cannot read.
        """
        self.reader.check_size(*size)
        self.preprocess = self.preprocess._replace(height=size[0], width=size[1])

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to the backbone's feature map ``[B, D, h, w]``, or its tokens ``[B, L, D]``."""
        tokens, grid = self.reader.read(self.visual_encoder, x)
        return tokens.transpose(1, 2).unflatten(2, grid) if self.reader.feature_map else tokens

    def forward_head(self, x: Tensor, pre_logits: bool = False, grid: tuple[int, int] | None = None) -> Tensor:
        """The output of `forward_features` to logits, or with ``pre_logits`` and without classes to embeddings.

        ``grid``: rows and columns of the patches of tokens; None for those of an image of the model's own size.

        Raises:
            InputError: for tokens of another size without ``grid``, or a training batch of one.
        """
        if x.dim() == 4:
            x, grid = x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])
        grid = grid or self.reader.grid(*self.preprocess[:2])
        if grid is None or self.num_prefix_tokens + grid[0] * grid[1] != x.shape[1]:
            raise InputError(
                f"forward_head: {x.shape[1]} tokens are not those of an image of the model's size; pass grid="
            )
        classify = bool(self.num_classes) and not pre_logits
        output = self.apply_head(x, grid, classify)
        return output.embeds if output.logits is None else output.logits

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to embeddings or logits, see the class."""
        tokens, grid = self.reader.read(self.visual_encoder, x)
        return self.forward_head(tokens, grid=grid)

    def get_classifier(self) -> nn.Module:
        """The classifier, or an identity without classes."""
        return self.classifier or nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one; 0 leaves it out.

        Raises:
            ConfigError: for a ``global_pool``, as the head pools in its own way.
        """
        if global_pool is not None:
            raise ConfigError(f"global_pool: {global_pool!r} has no effect; forward_features returns unpooled features")
        like = next(self.parameters())
        new = nn.Linear(self.feature_dim, num_classes, device=like.device, dtype=like.dtype) if num_classes else None
        self.classifier, self.num_classes = new, num_classes


def build_model(
    name: str,
    pretrained: bool = False,
    *,
    pretrained_folder: str | Path | None = None,
    backbone: Any = None,
    num_classes: int = 0,
    img_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> T2IReIDTimmModel:
    """Called by timm's ``create_model``.

    Args:
        name: in `MODELS`.
        pretrained: load the backbone's own weights.
        pretrained_folder: a run's folder, one of its checkpoints, or an export; it decides on all parts of the model.
        backbone: of the name ``t2ireid``, see `build_image_encoder`.
        num_classes: training identities; 0 for embeddings.
        img_size: height and width.
        **options: those of `DisentangleHead`.

    Raises:
        ConfigError: for an unknown option, or one that would have no effect.
        CheckpointError: when ``pretrained_folder`` is of another model, damaged or incomplete.
        EncoderError: when the backbone's files are missing.
    """
    for key in _OF_TIMM:
        if options.pop(key, None):
            raise ConfigError(f"{name}: {key} is not supported; weights come from pretrained or pretrained_folder")
    for key, neutral in _NEUTRAL.items():
        if options.pop(key, neutral) != neutral:
            raise ConfigError(f"{name}: {key} must be {neutral}, it cannot be changed")
    check_keys(f"options of {name}", options, ("pretrained_folder", "backbone", "num_classes", "img_size", *_HEAD))
    own = dict(MODELS[name])
    source = own.pop(IMAGE_KEY, None)
    if backbone is not None and (source or pretrained_folder):
        raise ConfigError(f"{name}: backbone is an option of 't2ireid' without pretrained_folder")
    common = {"architecture": name, "num_classes": num_classes}
    if pretrained_folder is not None:
        model = _load(Path(pretrained_folder), common, options)
    elif source is None and backbone is None:
        raise ConfigError(f"{name}: name a backbone, such as 'torchreid:resnet18', or a pretrained_folder")
    else:
        if name == "t2ireid_vit_base" and not pretrained:
            source = {}  # the default configuration of transformers is that of this model, and needs no file
        parts = {"source": backbone if source is None else source, "pretrained": pretrained, "disentangle": {}}
        model = T2IReIDTimmModel(**{**common, **parts, **own, **options})
    if img_size is not None:
        model.set_size((img_size, img_size) if isinstance(img_size, int) else img_size)
    return model


def _load(path: Path, common: Mapping[str, Any], options: Mapping[str, Any]) -> T2IReIDTimmModel:
    """The model of a run or an export; ``options`` may choose another of its branches."""
    export = path / "model.safetensors"
    checkpoint = Checkpoint.read(export if export.is_file() else checkpoint_to_test(path, "", path))
    stored = read_stored(checkpoint)
    if fixed := sorted(set(options) - {"branch"}):
        raise ConfigError(f"{fixed[0]}: '{checkpoint.path}' decides; leave this option out")
    parts = _parts(checkpoint)
    branch = options.get("branch", parts["branch"])
    if branch != parts["branch"] and "fused" in (branch, parts["branch"]):
        raise ConfigError(f"branch: '{checkpoint.path}' has the branch {parts['branch']}")
    model = T2IReIDTimmModel(**{**common, **parts, **options, "pretrained": False})
    _check_backbone(model, checkpoint.path)
    copy_state_dict(checkpoint.state, model, checkpoint.path).require_complete(checkpoint.path)
    if stored.preprocess is not None:
        model.preprocess = stored.preprocess
    if stored.ranking is not None:
        model.identity_weight = stored.ranking.weight
    return model


def _parts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Arguments of `ImageEmbedder` for the model of a checkpoint.

    Raises:
        CheckpointError: when it is not one of ours.
    """
    stored = read_stored(checkpoint)
    if stored.net_config:
        model, source = stored.net_config, stored.net_config[IMAGE_KEY]
        branch = BOTH if stored.ranking is not None and stored.ranking.by == BOTH else "identity"
    else:  # an image-only run
        model = checkpoint.content.get("config", {}).get("model", {})
        if model.get("name") not in IMAGE_RUN_MODELS:
            raise CheckpointError(f"'{checkpoint.path}' does not describe a model of this package")
        own = IMAGE_RUN_MODELS[model["name"]]
        source, branch = own.get(IMAGE_KEY) or model["vit_pretrained"] or model["vit_config"], own["branch"]
    fusion = {"fusion": model["fusion"]} if branch == "fused" else {}
    names = ("disentangle", "projection", "projection_dropout")
    return {"source": source, "branch": branch, **fusion, **{name: model[name] for name in names}}


def _check_backbone(model: T2IReIDTimmModel, path: Path) -> None:
    """Refuses weights of another backbone than that of the name.

    Raises:
        CheckpointError: naming both.
    """
    source = MODELS[model.architecture].get(IMAGE_KEY)
    config = model.visual_encoder.config
    kind = getattr(config, "architecture", None) or config.model_type
    named = library_model(source)
    if source and kind != (named[1] if named else "vit"):
        raise CheckpointError(f"{model.architecture}: '{path}' has the backbone {kind}; use the name 't2ireid'")
