"""The model as a Hugging Face model; importing this package registers it with transformers' Auto classes."""

from t2ireid_plugin.integrations.huggingface.backbone import T2IReIDBackbone
from t2ireid_plugin.integrations.huggingface.model import T2IReIDConfig, T2IReIDForRetrieval

__all__ = ["T2IReIDBackbone", "T2IReIDConfig", "T2IReIDForRetrieval"]
