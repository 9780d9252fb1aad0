"""Registration of our image models with timm; PyTorch's part is imported when a model is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from t2ireid_plugin.integrations.torchreid.registration import IMAGE_KEY
from t2ireid_plugin.integrations.torchreid.registration import MODELS as TORCHREID_NAMES

# Model names with their backbone and branch; those of torchreid's registry are the same models. `t2ireid` has the
# backbone that its option names, or that its weights belong to.
MODELS: dict[str, dict[str, Any]] = {
    "t2ireid": {},
    "t2ireid_vit_base": {"branch": "identity", IMAGE_KEY: "google/vit-base-patch16-224"},
    **{name: TORCHREID_NAMES[name] for name in ("t2ireid_resnet50", "t2ireid_osnet_x1_0")},
}


def register() -> None:
    """Registers the models, so that ``timm.create_model(name, …)`` builds a `T2IReIDTimmModel`.

    A second call has no effect.
    """
    from timm.models import is_model, register_model

    for name in MODELS:
        if not is_model(name):
            register_model(_entrypoint(name))


def _entrypoint(name: str) -> Callable[..., Any]:
    def build(pretrained: bool = False, **options: Any) -> Any:
        from t2ireid_plugin.integrations.timm.model import build_model

        return build_model(name, pretrained, **options)

    build.__name__ = name  # by which timm registers it
    return build
