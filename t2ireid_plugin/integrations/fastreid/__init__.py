"""`T2IReIDModel` in FastReID, whose source must be on PYTHONPATH (FastReID is not a package).

In a training script for FastReID::

    from t2ireid_plugin.integrations import fastreid as t2ireid

    t2ireid.enable_compatibility()  # before FastReID, whose source is too old for current Python and PyTorch
    t2ireid.register()

    cfg = get_cfg()  # FastReID's
    t2ireid.add_t2ireid_config(cfg)

``tools/train_fastreid.py`` is such a script.
"""

from t2ireid_plugin.errors import DependencyError
from t2ireid_plugin.integrations.fastreid.compatibility import enable_compatibility
from t2ireid_plugin.integrations.fastreid.config import add_t2ireid_config

__all__ = ["add_t2ireid_config", "enable_compatibility", "register"]


def register() -> None:
    """Registers our backbones, heads, meta-architecture and datasets with FastReID; a second call has no effect.

    Raises:
        DependencyError: when FastReID's source cannot be imported without `enable_compatibility`.
    """
    try:
        import fastreid.engine  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"FastReID: the source cannot be imported on this Python and PyTorch ({error}); call "
            "t2ireid_plugin.integrations.fastreid.enable_compatibility() first"
        ) from error
    from t2ireid_plugin.integrations.fastreid import backbone, datasets, heads, meta_arch  # noqa: F401
