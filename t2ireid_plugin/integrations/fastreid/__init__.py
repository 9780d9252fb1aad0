"""`T2IReIDModel` in FastReID, whose source must be on Python's path (it is no package).

In a training script of FastReID's kind::

    from t2ireid_plugin.integrations import fastreid as t2ireid

    t2ireid.enable_compatibility()  # FastReID's source does not run on today's Python and PyTorch without
    t2ireid.register()

    cfg = get_cfg()  # FastReID's
    t2ireid.add_t2ireid_config(cfg)

``tools/train_fastreid.py`` is such a script.
"""

from t2ireid_plugin.integrations.fastreid.compatibility import check_importable, enable_compatibility
from t2ireid_plugin.integrations.fastreid.config import add_t2ireid_config

__all__ = ["add_t2ireid_config", "enable_compatibility", "register"]


def register() -> None:
    """Puts our backbone, head, meta-architecture and caption datasets into FastReID's registries; again does nothing.

    Raises:
        DependencyError: when FastReID's source cannot be imported without `enable_compatibility`.
    """
    check_importable()
    from t2ireid_plugin.integrations.fastreid import backbone, datasets, meta_arch  # noqa: F401
