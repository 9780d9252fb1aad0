"""Settings of the model and their checks, without PyTorch, so that a configuration is checked before it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2ireid_plugin.errors import ConfigError, check_choice, check_keys, short_repr
from t2ireid_plugin.utils.lazy_table import LazyTable

EMBED_DIM = 256
ONNX_FORMAT = 1  # of an exported ``onnx.json``
NUM_HEADS = 4  # of every attention but the encoders'
# Which tokens the two branches read. The specification argues for `all`; the others are there to compare with it.
TOKENS = ("all", "cls", "mean", "max", "window")
# How each branch pools its tokens, and what its cross-attention reads.
POOLS = ("mean", "stripes", "attention")
CROSSES = ("other", "own", "none")
# The specification's; what an older checkpoint does not say was so.
DEFAULT_DISENTANGLE: dict[str, Any] = {"tokens": "all", "window": 5, "pool": "mean", "stripes": 6, "cross": "other"}
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


def check_disentangle(config: Mapping[str, Any]) -> None:
    """Checks the arguments of `DisentangleModule` that a configuration sets; those left out have their defaults.

    Raises:
        ConfigError: for an unknown key or choice, an even window, a wrong number of stripes, or a pool of places where
            the branches see one token.
    """
    check_keys("disentangle", config, DEFAULT_DISENTANGLE)
    tokens, window, pool, stripes, cross = {**DEFAULT_DISENTANGLE, **config}.values()
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


def check_fusion(config: Mapping[str, Any], embed_dim: int) -> None:
    """Checks the settings of a fusion; one that reads tokens may have any width, the others that of the embeddings.

    ``residual`` has none of ``d_state``, ``d_conv`` and ``num_layers``; they have no effect on it.

    Raises:
        ConfigError: for an unknown key or type, or naming the number and what it must be.
    """
    check_keys("fusion", config, DEFAULT_FUSION)
    check_choice("fusion.type", config["type"], FUSIONS)
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
