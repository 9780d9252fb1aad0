"""FastReID's trainer for our backbone, and for images with texts."""

from __future__ import annotations

from typing import Any

from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer
from fastreid.solver.build import build_optimizer
from torch import nn
from torch.optim import Optimizer

from t2ireid_plugin.engine.optim import ENCODERS
from t2ireid_plugin.integrations.fastreid import loaders
from t2ireid_plugin.integrations.fastreid.checkpointer import PREFIX, SavedValue, T2IReIDCheckpointer
from t2ireid_plugin.integrations.fastreid.evaluator import TextImageEvaluator
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_to_json


class T2IReIDTrainer(DefaultTrainer):
    """Trainer for any meta-architecture with our backbone: learning rate of the encoders, our checkpoints."""

    checkpointer: Any

    def build_hooks(self) -> list[Any]:
        """FastReID's hooks, with our checkpointer."""
        stock = self.checkpointer
        saved = {**stock.checkpointables, **self._saved_values()}
        self.checkpointer = T2IReIDCheckpointer(stock.model, stock.save_dir, save_to_disk=stock.save_to_disk, **saved)
        return super().build_hooks()

    def _saved_values(self) -> dict[str, SavedValue]:
        """Preprocessing, to be saved with the weights as `TextImageEngine` does."""
        height, width = self.cfg.INPUT.SIZE_TEST
        mean, std = ([value / 255 for value in self.cfg.MODEL[key]] for key in ("PIXEL_MEAN", "PIXEL_STD"))
        preprocess = {"height": height, "width": width, "mean": mean, "std": std}
        return {"preprocess": SavedValue("INPUT.SIZE_TEST, MODEL.PIXEL_MEAN or MODEL.PIXEL_STD", preprocess)}

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> tuple[Optimizer, Any]:
        """FastReID's optimizer, with ``T2IREID.ENCODER_LR_FACTOR`` for the encoders."""
        optimizer, parameters = build_optimizer(cfg, model, contiguous=False)
        prefixes = tuple(PREFIX + encoder for encoder in ENCODERS)
        encoders = {id(p) for name, p in model.named_parameters() if name.startswith(prefixes)}
        for group in optimizer.param_groups:  # FastReID makes one group per parameter
            if id(group["params"][0]) in encoders:
                group["lr"] *= cfg.T2IREID.ENCODER_LR_FACTOR
        return optimizer, parameters


class TextImageTrainer(T2IReIDTrainer):
    """Trainer for `T2IReIDBaseline`: loaders with texts, text-to-image evaluation."""

    build_train_loader = staticmethod(loaders.build_train_loader)
    build_test_loader = staticmethod(loaders.build_test_loader)

    def _saved_values(self) -> dict[str, SavedValue]:
        values = super()._saved_values()
        ranking = self.checkpointer.model.backbone.ranking._asdict()
        values["ranking"] = SavedValue("T2IREID.ID_INSTRUCTION, CLOTH_INSTRUCTION or IDENTITY_WEIGHT", ranking)
        if not self.cfg.T2IREID.BERT_BASE_PATH:
            vocabulary = tokenizer_to_json(self.checkpointer.model.backbone.text_cache.tokenizer)
            values["tokenizer"] = SavedValue("vocabulary", vocabulary)
        return values

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None) -> tuple[Any, Any]:
        """The test loader and a `TextImageEvaluator`."""
        return cls.build_test_loader(cfg, dataset_name)[0], TextImageEvaluator()
