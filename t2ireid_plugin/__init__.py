"""Text-to-image person re-identification for torchreid.

Importing this package registers its models and datasets with torchreid, and its image models with timm, as soon as
these are imported too. The package itself imports neither them nor PyTorch before they are needed.

Symbols used in shapes throughout: ``B`` batch, ``n`` number of texts, ``L`` tokens of a sequence, ``D`` width of an
encoder (768 at full size), ``H`` x ``W`` height and width of an image, ``P`` training identities.

Terms used throughout: a *query* (here a text) is searched for in the *gallery* (images); *pid* is the identity of a
person, *camid* the camera of an image; *CMC* or R@k is the share of queries with a match among the first k results,
*mAP* the mean of the queries' average precision, *mINP* the mean of the precision at the last match; an *embedding* is
the vector that is compared, *logits* are the scores of a classifier.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.integrations.timm.registration import register as register_with_timm
from t2ireid_plugin.integrations.torchreid.registration import register, register_model_variant
from t2ireid_plugin.utils.import_hook import when_imported

if TYPE_CHECKING:
    from t2ireid_plugin.config import get_cfg
    from t2ireid_plugin.integrations.torchreid.model import T2IReIDImageModel
    from t2ireid_plugin.modeling.disentangle import DisentangleModule
    from t2ireid_plugin.modeling.encoders.backbones import ImageTokens, image_tokens
    from t2ireid_plugin.modeling.encoders.loading import build_image_encoder
    from t2ireid_plugin.modeling.fusion import EnhancedMambaFusion, GatedMambaFusion, SequenceMambaFusion
    from t2ireid_plugin.modeling.head import DisentangleHead, HeadOutput
    from t2ireid_plugin.modeling.t2ireid import T2IReIDModel, T2IReIDOutput
    from t2ireid_plugin.search.encoder import load

__version__ = "0.1.0"
__all__ = [
    "DisentangleHead",
    "DisentangleModule",
    "EnhancedMambaFusion",
    "GatedMambaFusion",
    "HeadOutput",
    "ImageTokens",
    "SequenceMambaFusion",
    "T2IReIDImageModel",
    "T2IReIDModel",
    "T2IReIDOutput",
    "__version__",
    "build_image_encoder",
    "get_cfg",
    "image_tokens",
    "load",
    "register",
    "register_model_variant",
]

# Modules of the public names, imported on first access.
_MODULES = {
    "DisentangleHead": "t2ireid_plugin.modeling.head",
    "DisentangleModule": "t2ireid_plugin.modeling.disentangle",
    "EnhancedMambaFusion": "t2ireid_plugin.modeling.fusion",
    "GatedMambaFusion": "t2ireid_plugin.modeling.fusion",
    "HeadOutput": "t2ireid_plugin.modeling.head",
    "ImageTokens": "t2ireid_plugin.modeling.encoders.backbones",
    "SequenceMambaFusion": "t2ireid_plugin.modeling.fusion",
    "T2IReIDImageModel": "t2ireid_plugin.integrations.torchreid.model",
    "T2IReIDModel": "t2ireid_plugin.modeling.t2ireid",
    "T2IReIDOutput": "t2ireid_plugin.modeling.t2ireid",
    "build_image_encoder": "t2ireid_plugin.modeling.encoders.loading",
    "get_cfg": "t2ireid_plugin.config",
    "image_tokens": "t2ireid_plugin.modeling.encoders.backbones",
    "load": "t2ireid_plugin.search.encoder",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# On import, torchreid warns of its missing Cython evaluator, which we do not need.
when_imported("torchreid", register, ignored_warning="Cython evaluation")
when_imported("timm", register_with_timm)
