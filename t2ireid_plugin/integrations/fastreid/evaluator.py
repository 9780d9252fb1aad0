"""Texts find images: the official protocol, as an evaluator of FastReID."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

import torch
from fastreid.evaluation import DatasetEvaluator
from fastreid.utils import comm
from torch import Tensor

from t2ireid_plugin.evaluation.metrics import compute_metrics
from t2ireid_plugin.evaluation.protocols import RetrievalTask

RANKS = (1, 5, 10)


class TextImageEvaluator(DatasetEvaluator):
    """Ranks all images of a set for each of its captions, with this package's exact evaluation.

    The results have FastReID's names and are percentages; ``metric``, by which FastReID chooses ``model_best.pth``, is
    its mean of Rank-1 and mAP.
    """

    def reset(self) -> None:
        """Forgets what was processed."""
        self._found: list[tuple[bool, Tensor, Tensor, Tensor]] = []  # whether texts, embeddings, pids, camids

    def process(self, inputs: dict[str, Any], outputs: Tensor) -> None:
        """Keeps a batch of images or of texts."""
        is_text = "images" not in inputs
        self._found.append((is_text, outputs.float().cpu(), inputs["targets"].cpu(), inputs["camids"].cpu()))

    def evaluate(self) -> dict[str, float]:
        """``Rank-1``, ``Rank-5``, ``Rank-10``, ``mAP``, ``mINP`` and ``metric``; nothing but in the main process.

        Raises:
            DataError: when no caption has an image of its identity in the gallery.
        """
        found = self._found
        if comm.get_world_size() > 1:
            comm.synchronize()
            found = list(itertools.chain(*comm.gather(found, dst=0)))
            if not comm.is_main_process():
                return {}
        queries, q_pids, q_camids = _joined(part[1:] for part in found if part[0])
        gallery, g_pids, g_camids = _joined(part[1:] for part in found if not part[0])
        comparison = RetrievalTask(queries, gallery, q_pids.numpy(), g_pids.numpy(), q_camids.numpy(), g_camids.numpy())
        metrics, _ = compute_metrics(comparison, RANKS)
        results = OrderedDict((f"Rank-{k}", 100 * metrics[f"R@{k}"]) for k in RANKS)
        results.update(mAP=100 * metrics["mAP"], mINP=100 * metrics["mINP"])
        results["metric"] = (results["Rank-1"] + results["mAP"]) / 2
        return results


def _joined(parts: Any) -> tuple[Tensor, ...]:
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
