"""`T2IReIDModel` as a Hugging Face model: one folder with weights, configuration, preprocessing and tokenizer.

The folder is self-contained: the encoders are rebuilt from their configurations and filled from
``model.safetensors``. Its names are those of `T2IReIDModel`, although transformers may save encoders under the names of
older versions, and `T2IReIDModel.load_param` reads it too.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import CheckpointError, ConfigError, EncoderError
from t2ireid_plugin.integrations.huggingface.folder import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    file_name,
    read_preprocess,
    read_tokenizer,
    write_preprocess,
    write_tokenizer,
)
from t2ireid_plugin.modeling.checkpoint import weights_digest
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, TEXT_KEY, config_from_dict, quiet_loading
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess
from t2ireid_plugin.modeling.image_embedder import check_pixels
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.t2ireid import DEFAULT_FUSION, DEFAULTS, T2IReIDModel, T2IReIDOutput

logger = logging.getLogger(__name__)

_CLASSIFIER = "id_classifier."  # replaced when fine-tuning on other identities
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PUSH_OPTIONS = ("commit_message", "commit_description", "private", "create_pr", "revision", "tags")
_ALIGNMENT = 64  # bytes
_CONVERTING = ("dtype", "torch_dtype", "quantization_config", "device_map", "state_dict")  # options that change weights


class T2IReIDConfig(PretrainedConfig):
    """Configuration of a `T2IReIDModel` and its encoders.

    Args:
        vision_config, text_config: encoder configurations, as objects or as mappings with the ``model_type`` of a
            family in `modeling.encoders.families`; empty for ViT-B/16 and BERT-base.
        disentangle, fusion, num_classes, freeze_text, freeze_image, projection, projection_dropout, token_selection: as
            for `T2IReIDModel`.
        max_text_length: tokens per text; transformers uses the name ``max_length`` for text generation.
        ranking: fields of `Ranking`, by which `encode_query` and `encode_gallery` score; None for that of the texts
            ``id_instruction`` and ``cloth_instruction``, which an older export has instead.

    Raises:
        ConfigError: for an unknown family.
    """

    model_type = "t2ireid"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 - transformers' attribute

    def __init__(
        self,
        vision_config: Mapping[str, Any] | PretrainedConfig | None = None,
        text_config: Mapping[str, Any] | PretrainedConfig | None = None,
        disentangle: Mapping[str, Any] = DEFAULTS["disentangle"],
        fusion: Mapping[str, Any] | None = DEFAULT_FUSION,
        num_classes: int = DEFAULTS["num_classes"],
        max_text_length: int = DEFAULTS["max_length"],
        freeze_text: bool = DEFAULTS["freeze_text"],
        freeze_image: bool = DEFAULTS["freeze_image"],
        projection: str = DEFAULTS["projection"],
        projection_dropout: float = DEFAULTS["projection_dropout"],
        token_selection: Mapping[str, Any] = DEFAULTS["token_selection"],
        ranking: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vision_config = config_from_dict(vision_config or {}, IMAGE_KEY, "vision_config")
        self.text_config = config_from_dict(text_config or {}, TEXT_KEY, "text_config")
        self.disentangle = dict(disentangle)
        self.fusion = None if fusion is None else dict(fusion)
        self.num_classes = num_classes
        self.max_text_length = max_text_length
        self.freeze_text = freeze_text
        self.freeze_image = freeze_image
        self.projection = projection
        self.projection_dropout = projection_dropout
        self.token_selection = dict(token_selection)
        if ranking is None:
            texts = (kwargs.get("id_instruction", "caption"), kwargs.get("cloth_instruction", "clothing"))
            ranking = Ranking.of_training(*texts)._asdict()
        self.ranking = ranking
        super().__init__(**kwargs)

    def net_config(self) -> dict[str, Any]:
        """The argument of `T2IReIDModel`, without the tokenizer."""
        return {
            IMAGE_KEY: self.vision_config,
            TEXT_KEY: self.text_config,
            "num_classes": self.num_classes,
            "disentangle": self.disentangle,
            "fusion": self.fusion,
            "freeze_text": self.freeze_text,
            "freeze_image": self.freeze_image,
            "max_length": self.max_text_length,
            "projection": self.projection,
            "projection_dropout": self.projection_dropout,
            "token_selection": self.token_selection,
        }


class T2IReIDForRetrieval(PreTrainedModel):
    """`T2IReIDModel` (its attribute ``model``) with loading and saving of transformers.

    Args:
        config: the model's configuration.
        tokenizer: of the text encoder; `from_pretrained` reads it from the model's folder.
        preprocess: size and normalisation of images; None for the image encoder's own.

    Raises:
        ConfigError: for a configuration that cannot work.
        EncoderError: for a missing tokenizer, or one that does not fit the text encoder.
    """

    config_class = T2IReIDConfig
    base_model_prefix = "model"  # so that names load with and without it
    main_input_name = "image"
    _no_split_modules = ["T2IReIDModel"]  # noqa: RUF012 - transformers' attribute
    _supports_sdpa = True  # the encoders decide

    def __init__(
        self,
        config: T2IReIDConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__(config)
        vocab_size = config.text_config.vocab_size
        if tokenizer is None:
            raise EncoderError("T2IReIDForRetrieval: no tokenizer; pass tokenizer=, that of the text encoder")
        # Embedding tables may be padded to a round size. If its file is missing, transformers returns a tokenizer with
        # hardly any tokens.
        if not 0.99 * vocab_size <= len(tokenizer) <= vocab_size:
            raise EncoderError(f"the tokenizer has {len(tokenizer)} tokens, but text_config.vocab_size is {vocab_size}")
        self.model = T2IReIDModel({**config.net_config(), "tokenizer": tokenizer})
        self.model.ranking = Ranking.read(config.ranking)
        if preprocess is not None:
            self.model.preprocess = preprocess
        self.post_init()

    @property
    def preprocess(self) -> Preprocess:
        """Image size, mean and standard deviation of the training."""
        return self.model.preprocess

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The text encoder's tokenizer."""
        return self.model.text_cache.tokenizer

    def read_images(self, paths: Sequence[str | Path]) -> Tensor:
        """Reads ``B`` image files to ``[B, 3, H, W]``, preprocessed exactly as in training and evaluation.

        Raises:
            DataError: for a file that is missing or not an image.
        """
        transform = TestTransform(*self.preprocess)
        return torch.stack([transform.tensor(transform.load(path)) for path in paths])

    def forward(
        self,
        image: Tensor | None = None,
        cloth_instruction: str | Sequence[str] | None = None,
        id_instruction: str | Sequence[str] | None = None,
    ) -> T2IReIDOutput:
        """Same as `T2IReIDModel.forward`."""
        return self.model(None if image is None else self._pixels(image), cloth_instruction, id_instruction)

    def encode_image(self, image: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to identity embeddings ``[B, 256]`` of unit norm."""
        return self.model.encode_image(self._pixels(image))

    def encode_query(self, text: str | Sequence[str]) -> Tensor:
        """Same as `T2IReIDModel.encode_query`: captions to vectors whose inner product with a gallery is the score."""
        return self.model.encode_query(text)

    def encode_gallery(self, image: Tensor) -> Tensor:
        """Same as `T2IReIDModel.encode_gallery`."""
        return self.model.encode_gallery(self._pixels(image))

    def _pixels(self, image: Tensor) -> Tensor:
        check_pixels(image)  # first, as whole numbers would become floating point
        return image.to(self.dtype)

    def encode_text(self, text: str | Sequence[str]) -> Tensor:
        """A string to ``[256]``, ``n`` strings to ``[n, 256]``, of unit norm."""
        return self.model.encode_text(text)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Loads a model from a folder or hub id; ``ignore_mismatched_sizes`` allows another ``num_classes``.

        Raises:
            ConfigError: for a configuration that cannot work; it names the file.
            EncoderError: for a missing tokenizer or image processor, or a tokenizer that does not fit.
            CheckpointError: for weights that are damaged or do not match the configuration, for which transformers
                would only warn and use random weights.
        """
        source = pretrained_model_name_or_path
        if source is not None:
            hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
            for name, read in (("tokenizer", read_tokenizer), ("preprocess", read_preprocess)):
                if kwargs.get(name) is None:
                    kwargs[name] = read(source, hub)
            kwargs.setdefault("use_safetensors", True)  # never a pickle
        kwargs["ignore_mismatched_sizes"] = True  # `_check_loaded` names the tensors, transformers does not
        try:
            with quiet_loading():
                model, info = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        except EncoderError as error:
            raise EncoderError(f"{file_name(source, TOKENIZER_FILE)}: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{file_name(source, CONFIG_FILE)}: {error}") from error
        except (RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{file_name(source, WEIGHTS_FILE)} cannot be loaded: {reason}") from error
        replaced = _CLASSIFIER if ignore_mismatched_sizes else ()
        _check_loaded(info, replaced, source, model.config.transformers_version)
        digest = getattr(model.config, "weights_digest", None)
        unchanged = not (set(kwargs).intersection(_CONVERTING) or info["mismatched_keys"])
        if digest and unchanged and weights_digest(model.model.state_dict()) != digest:
            raise CheckpointError(f"{file_name(source, WEIGHTS_FILE)} is damaged: not the weights of {CONFIG_FILE}")
        _align(model)
        for encoder in model.model.frozen_encoders:  # loading sets requires_grad on all parameters
            encoder.requires_grad_(False)
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self, save_directory: str | Path, is_main_process: bool = True, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Writes ``config.json``, ``model.safetensors``, preprocessing and tokenizer; optionally uploads them."""
        hub = {name: kwargs.pop(name) for name in ("repo_id", *_PUSH_OPTIONS) if name in kwargs}
        state = kwargs.pop("state_dict", None) or self.state_dict()
        kwargs["state_dict"] = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        self.config.weights_digest = weights_digest(kwargs["state_dict"])
        self.config.ranking = self.model.ranking._asdict()
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            write_tokenizer(self.tokenizer, Path(save_directory), self.config.max_text_length)
            write_preprocess(self.preprocess, Path(save_directory))
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), token=kwargs.get("token"), **hub)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialises a replaced classifier; all other parts are loaded, or initialise themselves."""
        if module is self.model.id_classifier:
            self.model.id_classifier.reset_parameters()


def _align(model: nn.Module) -> None:
    """Copies weights to aligned memory, on which the rounding of matrix products with a single row depends.

    transformers maps the file into memory, where tensors begin anywhere; PyTorch's own allocations are aligned.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def _check_loaded(
    info: Mapping[str, Any], replaced: str | tuple[str, ...], source: str | Path | None, version: str | None
) -> None:
    """Checks that the weights are those that the configuration describes, except names that start with ``replaced``."""
    problems = {
        "missing": info["missing_keys"],
        "unexpected": info["unexpected_keys"],
        "other size": [name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]],
    }
    names = {label: sorted({key.removeprefix("model.") for key in keys}) for label, keys in problems.items()}
    wrong = {label: [key for key in keys if not key.startswith(replaced)] for label, keys in names.items()}
    listed = "; ".join(f"{label} ({len(keys)}): {', '.join(keys[:3])}" for label, keys in wrong.items() if keys)
    if any(names.values()) and not listed:
        logger.warning("%s: the classifier has another size and starts anew", file_name(source, WEIGHTS_FILE))
    if listed:
        writer = "" if version in (None, transformers.__version__) else f" (written by transformers {version})"
        raise CheckpointError(f"{file_name(source, WEIGHTS_FILE)} does not match {CONFIG_FILE}{writer}: {listed}")


AutoConfig.register(T2IReIDConfig.model_type, T2IReIDConfig, exist_ok=True)
AutoModel.register(T2IReIDConfig, T2IReIDForRetrieval, exist_ok=True)
