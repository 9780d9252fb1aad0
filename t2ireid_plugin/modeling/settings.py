"""Settings of the model and their checks, without PyTorch, so that a configuration is checked before it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2ireid_plugin.errors import ConfigError, check_choice, check_keys, short_repr
from t2ireid_plugin.utils.lazy_table import LazyTable

EMBED_DIM = 256
ONNX_FORMAT = 1  # of an exported ``onnx.json``
NUM_HEADS = 4  # of every attention but the encoders'
# `attention` separates identity from clothing (`DisentangleModule`); `none` keeps the encoder's own pooled token.
TYPES = ("attention", "none")
# How pooled features become the embedding: two linear layers with normalisation, not at all, or as in CLIP, whose own
# projections of the tokens come before the pooling.
PROJECTIONS = ("mlp", "none", "encoder")
POSITIONS = ("", "bilinear", "bicubic")
# Which embedding an image-only model has.
BRANCHES = ("identity", "clothing", "both", "fused")
MAX_MAP_DIM = 512  # of the tokens that a head reads of a feature map, by default
# Which tokens the two branches read. The specification argues for `all`; the others are there to compare with it.
TOKENS = ("all", "cls", "mean", "max", "window")
# How each branch pools its tokens, and what its cross-attention reads.
POOLS = ("mean", "stripes", "attention")
CROSSES = ("other", "own", "none")
# The specification's; what an older checkpoint does not say was so.
DEFAULT_DISENTANGLE: dict[str, Any] = {
    "type": "attention",
    "dim": 0,
    "tokens": "all",
    "window": 5,
    "pool": "mean",
    "stripes": 6,
    "cross": "other",
}
FUSIONS = LazyTable(
    {
        "enhanced_mamba": "t2ireid_plugin.modeling.fusion.EnhancedMambaFusion",
        "gated_mamba": "t2ireid_plugin.modeling.fusion.GatedMambaFusion",
        "sequence_mamba": "t2ireid_plugin.modeling.fusion.SequenceMambaFusion",
        "residual": "t2ireid_plugin.modeling.fusion.ResidualFusion",
    }
)
DEFAULT_FUSION: dict[str, Any] = {
    "type": "enhanced_mamba",
    "dim": EMBED_DIM,
    "d_state": 16,
    "d_conv": 4,
    "num_layers": 2,
    "output_dim": EMBED_DIM,
    "dropout": 0.1,
}
# Token-selection embedding of RDE; ratio 0 leaves it out.
DEFAULT_SELECTION: dict[str, Any] = {"ratio": 0.0, "dim": 1024, "batch_norm": True}


def check_disentangle(config: Mapping[str, Any]) -> None:
    """Checks the settings of the disentangling; those left out have their defaults.

    ``type`` and ``dim`` are those of `disentangle_dim`, the others are arguments of `DisentangleModule`.

    Raises:
        ConfigError: for an unknown key or choice, an even window, a wrong number of stripes, a pool of places where
            the branches see one token, or an argument with ``type: none``, on which it has no effect.
    """
    check_keys("disentangle", config, DEFAULT_DISENTANGLE)
    kind, dim, tokens, window, pool, stripes, cross = {**DEFAULT_DISENTANGLE, **config}.values()
    check_choice("disentangle.type", kind, TYPES)
    if type(dim) is not int or dim < 0 or dim % NUM_HEADS:
        raise ConfigError(f"disentangle.dim: {short_repr(dim)} must be a multiple of {NUM_HEADS}, or 0 for the default")
    changed = [key for key, value in config.items() if value != DEFAULT_DISENTANGLE[key] and key not in ("type", "dim")]
    if kind == "none" and changed:
        raise ConfigError(f"disentangle.{changed[0]}: {short_repr(config[changed[0]])} has no effect with type none")
    for name, choice, choices in (("tokens", tokens, TOKENS), ("pool", pool, POOLS), ("cross", cross, CROSSES)):
        check_choice(f"disentangle.{name}", choice, choices)
    if not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise ConfigError(f"disentangle.window: {short_repr(window)} must be an odd number of patches, such as 5")
    if type(stripes) is not int or stripes < 1:
        raise ConfigError(f"disentangle.stripes: {short_repr(stripes)} must be a whole number of at least 1")
    if pool != "mean" and tokens not in ("all", "window"):
        raise ConfigError(
            f"disentangle.pool: '{pool}' needs a token per patch, and disentangle.tokens '{tokens}' leaves one in all"
        )


def disentangle_dim(config: Mapping[str, Any], width: int, feature_map: bool) -> int:
    """Width of the tokens that the disentangling reads; a linear layer maps an encoder's width to another one.

    ``dim`` if set. Else it is the encoder's ``width``, but at most 512 for a feature map: at the 2048 channels of a
    ResNet-50 the head would take twice the backbone's time (docs/parts.md). ``type: none`` keeps the encoder's.
    """
    if config.get("dim"):
        return int(config["dim"])
    return min(width, MAX_MAP_DIM) if feature_map and config.get("type") != "none" else width


def check_rows(config: Mapping[str, Any], rows: int) -> None:
    """Checks that each stripe of ``pool: stripes`` has a row of patches to itself.

    Raises:
        ConfigError: for fewer rows than stripes.
    """
    config = {**DEFAULT_DISENTANGLE, **config}
    if config["pool"] == "stripes" and rows < config["stripes"]:
        raise ConfigError(
            f"disentangle.stripes: {config['stripes']} is more than the image's {rows} rows of patches; use fewer "
            "stripes, smaller patches or a higher image"
        )


def check_model(config: Mapping[str, Any]) -> None:
    """Checks ``disentangle``, ``fusion`` and ``projection`` of a text-image model, each and together.

    Raises:
        ConfigError: naming the setting and what it must be.
    """
    disentangle, fusion, projection = config["disentangle"], config["fusion"], config["projection"]
    check_disentangle(disentangle)
    check_choice("projection", projection, PROJECTIONS)
    if projection == "encoder" and disentangle.get("dim"):
        raise ConfigError(f"disentangle.dim: {disentangle['dim']} must be 0 with projection encoder, which has its own")
    check_selection(config)
    if fusion is None or fusion["type"] == "none":
        return
    check_fusion(fusion, EMBED_DIM)
    if projection != "mlp":
        raise ConfigError(
            f"projection: {projection} needs fusion.type none, as {fusion['type']} fuses projected embeddings"
        )
    if fusion["type"] == "residual" and disentangle.get("type") == "none":
        raise ConfigError("fusion.type: residual fuses both branches, which disentangle.type none does not have")


def check_selection(config: Mapping[str, Any]) -> None:
    """Checks ``token_selection`` of a text-image model, see `TokenSelection`.

    Raises:
        ConfigError: for an unknown key, a value that cannot work, or encoders that need not be CLIP's.
    """
    check_keys("token_selection", config["token_selection"], DEFAULT_SELECTION)
    ratio, dim, _ = {**DEFAULT_SELECTION, **config["token_selection"]}.values()
    if not 0 <= ratio <= 1:
        raise ConfigError(f"token_selection.ratio: {ratio} must be a share of the tokens from 0 to 1, such as 0.3")
    if type(dim) is not int or dim < 2:
        raise ConfigError(f"token_selection.dim: {short_repr(dim)} must be a whole number of at least 2")
    if ratio and config["projection"] != "encoder":
        raise ConfigError(f"token_selection.ratio: {ratio} needs projection encoder, not {config['projection']}")


def check_branch(branch: str, disentangle: Mapping[str, Any], projection: str) -> None:
    """Checks which embedding a head without texts has, against its parts.

    Raises:
        ConfigError: for an unknown branch, or one whose parts are missing.
    """
    check_choice("branch", branch, BRANCHES)
    check_choice("projection", projection, PROJECTIONS[:2])
    check_disentangle(disentangle)
    if disentangle.get("type") == "none" and branch != "identity":
        raise ConfigError(f"branch: {branch} needs disentangle.type attention; with none there is only identity")
    if branch == "fused" and projection == "none":
        raise ConfigError("branch: fused needs projection mlp, whose embeddings it fuses")


def check_fusion(config: Mapping[str, Any], embed_dim: int) -> None:
    """Checks the settings of a fusion; one that reads tokens may have any width, the others that of the embeddings.

    ``type: none`` leaves the fusion out. ``residual`` has none of ``d_state``, ``d_conv`` and ``num_layers``; they have
    no effect on it.

    Raises:
        ConfigError: for an unknown key or type, or naming the number and what it must be.
    """
    check_keys("fusion", config, DEFAULT_FUSION)
    check_choice("fusion.type", config["type"], (*FUSIONS, "none"))
    for name in ("dim", "d_state", "d_conv", "num_layers", "output_dim"):
        if type(config[name]) is not int or config[name] < 1:
            raise ConfigError(f"fusion.{name}: {short_repr(config[name])} must be a whole number of at least 1")
    if not 0 <= config["dropout"] < 1:
        raise ConfigError(f"fusion.dropout: {config['dropout']} must be from 0 to below 1")
    if config["output_dim"] != embed_dim:
        raise ConfigError(f"fusion.output_dim: {config['output_dim']} must be {embed_dim}, the width of the embeddings")
    if config["dim"] != embed_dim and config["type"] != "sequence_mamba":
        raise ConfigError(
            f"fusion.dim: {config['dim']} must be {embed_dim}, the width of the embeddings; only sequence_mamba, which "
            "reads tokens, may have another width"
        )
