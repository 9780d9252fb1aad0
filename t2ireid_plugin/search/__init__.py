"""Search: a sentence or a photo against one's own photos and videos.

Importing this package loads neither PyTorch nor FAISS.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2ireid_plugin.search.encoder import Encoder
    from t2ireid_plugin.search.gallery import Gallery
    from t2ireid_plugin.search.hits import Hit, Hits

__all__ = ["Encoder", "Gallery", "Hit", "Hits"]

_MODULES = {"Encoder": "encoder", "Gallery": "gallery", "Hit": "hits", "Hits": "hits"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
