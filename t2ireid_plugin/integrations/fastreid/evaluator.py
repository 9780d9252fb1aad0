"""Text-to-image retrieval as an evaluator of FastReID."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

import torch
from fastreid.evaluation import DatasetEvaluator
from fastreid.utils import comm
from torch import Tensor

from t2ireid_plugin.evaluation.bootstrap import RANKS
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import RetrievalTask


class TextImageEvaluator(DatasetEvaluator):
    """Ranks all images of a dataset for each caption, with this package's exact evaluation.

    Results are percentages under FastReID's names. ``metric``, which selects ``model_best.pth``, is FastReID's mean of
    Rank-1 and mAP.
    """

    def reset(self) -> None:
        """Forgets all batches."""
        self._batches: list[tuple[bool, Tensor, Tensor, Tensor]] = []  # is text, embeddings, pids, camids

    def process(self, inputs: dict[str, Any], outputs: Tensor) -> None:
        """Stores the embeddings of a batch of images or of texts."""
        is_text = "images" not in inputs
        self._batches.append((is_text, outputs.float().cpu(), inputs["targets"].cpu(), inputs["camids"].cpu()))

    def evaluate(self) -> dict[str, float]:
        """``Rank-1``, ``Rank-5``, ``Rank-10``, ``mAP``, ``mINP`` and ``metric``; empty except in the main process.

        Raises:
            DataError: when no caption has an image of its identity in the gallery.
        """
        batches = self._batches
        if comm.get_world_size() > 1:
            comm.synchronize()
            batches = list(itertools.chain(*comm.gather(batches, dst=0)))
            if not comm.is_main_process():
                return {}
        queries, q_pids, q_camids = _concatenated(batch[1:] for batch in batches if batch[0])
        gallery, g_pids, g_camids = _concatenated(batch[1:] for batch in batches if not batch[0])
        task = RetrievalTask(queries, gallery, q_pids.numpy(), g_pids.numpy(), q_camids.numpy(), g_camids.numpy())
        metrics = evaluate_task(task, RANKS).metrics
        results = OrderedDict((f"Rank-{k}", 100 * metrics[f"R@{k}"]) for k in RANKS)
        results.update(mAP=100 * metrics["mAP"], mINP=100 * metrics["mINP"])
        results["metric"] = (results["Rank-1"] + results["mAP"]) / 2
        return results


def _concatenated(batches: Any) -> tuple[Tensor, ...]:
    return tuple(torch.cat(column) for column in zip(*batches, strict=True))
