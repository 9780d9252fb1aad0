"""The model as a Hugging Face model; importing this package registers it with ``AutoConfig`` and ``AutoModel``."""

from t2ireid_plugin.integrations.huggingface.model import T2IReIDConfig, T2IReIDForRetrieval

__all__ = ["T2IReIDConfig", "T2IReIDForRetrieval"]
