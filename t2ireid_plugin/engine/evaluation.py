"""Evaluation of the text-image engine: retrieval metrics of its targets, and the choice of the checkpoint on val."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from t2ireid_plugin.data.composed import has_composed
from t2ireid_plugin.engine.feature_cache import ImageFeatureCache
from t2ireid_plugin.engine.loop import TrainingLoop
from t2ireid_plugin.engine.record import check_same_training
from t2ireid_plugin.engine.training_state import BEST, save_checkpoint
from t2ireid_plugin.evaluation.answers import write_answers
from t2ireid_plugin.evaluation.bootstrap import FEW
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.metrics import choose_weight, evaluate_task, reranked_metrics
from t2ireid_plugin.evaluation.protocols import (
    COMPOSED,
    IMAGE_QUERY_PROTOCOLS,
    OFFICIAL,
    PROTOCOLS,
    SUM,
    SUMS,
    WEIGHTS,
    Embeddings,
    with_baselines,
)
from t2ireid_plugin.evaluation.query_records import query_keys
from t2ireid_plugin.evaluation.result import Metrics, RetrievalResult
from t2ireid_plugin.evaluation.similarity_distribution import mean_similarity_distribution
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.ranking import BOTH, CAPTION, Ranking
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.distributed import broadcast_object, broadcast_weights, is_main_process
from t2ireid_plugin.utils.signals import check_stop, defer_signals

logger = logging.getLogger(__name__)


class RetrievalEvaluation(TrainingLoop):
    """`TrainingLoop` that evaluates retrieval with texts and chooses the checkpoint on ``val_targets``.

    Args:
        *args: of `TrainingLoop`.
        val_targets: targets that choose the checkpoint; empty takes the last epoch.
        choose_on_test: the test targets choose it, as in the code of some papers; the results say so.
        evaluator: see `evaluate_task`.
        ranks: the k of R@k.
        identity_weight: of the identity branch wherever both branches score; None for the one that is best on val.
        protocols: those that the final test will report, whose weights are chosen on val.
        **kwargs: of `TrainingLoop`; with a moving average, that is evaluated and chosen.
    """

    def __init__(
        self,
        *args: Any,
        val_targets: Sequence[str],
        evaluator: str,
        ranks: Sequence[int],
        identity_weight: float | None,
        protocols: Sequence[str],
        choose_on_test: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.val_targets = list(val_targets)
        self.test_targets = [name for name in self.datamanager.targets if name not in self.val_targets]
        self.choose_on_test = choose_on_test
        self.evaluator, self.ranks, self.identity_weight = evaluator, list(ranks), identity_weight
        self.protocols = list(protocols)

    @property
    def choosing_targets(self) -> list[str]:
        """The targets that choose the checkpoint."""
        return self.test_targets if self.choose_on_test else self.val_targets

    @property
    def tested_model(self) -> T2IReIDModel:
        """The model that is evaluated and saved as the best: the moving average, or else the model itself."""
        return self.model if self.ema is None else cast(T2IReIDModel, self.ema.module)

    def use_image_features(self, cache: ImageFeatureCache | None) -> None:
        """Reads images of a frozen encoder from a cache from now on, or with None encodes all of them again."""
        self.model.image_features = self.tested_model.image_features = cache

    def choose(self, folder: Path) -> float | None:
        """Saves this epoch's weights as `BEST` if they are the best on val so far, or without a val set.

        The best have the highest mean R@1 over the val sets; of equals, the highest mean mAP; of equals, the last ones.
        With a ranking by both branches, each epoch is scored at its own best weight of them.

        Returns:
            The mean R@1; None without a val set, and except in the main process.
        """
        # Weights of the protocols that the test will report; the sum's needs nothing more than the official one.
        weighted = [name for name in WEIGHTS if name in (OFFICIAL, SUM, *with_baselines(self.protocols))]
        sets = self._embed(self.choosing_targets, weighted)
        weight = broadcast_object(self._best_weight(OFFICIAL, sets) if is_main_process() else None)
        if weight is not None:
            self._set_ranking_weight(weight)
            sets = {name: e._replace(ranking=self.model.ranking) for name, e in sets.items()}
        val = self._log_official(sets)
        scores = _mean_scores(val)
        if is_main_process():
            epoch = self.epoch + 1
            best = _mean_scores(self.best["val"]) if self.best else ()
            tied = [epoch]  # epochs that val does not distinguish from the chosen one
            if best and (scores == best or scores[0] == best[0] == 1):
                tied = [*self.best.get("tied", [self.best["epoch"]]), epoch]
                self.best = {**self.best, "tied": tied}
            if scores >= best:
                score = scores[0] if scores else 0.0
                others = {name: self._best_weight(name, sets) for name in weighted if name != OFFICIAL}
                with defer_signals():
                    content = self.weights(self.tested_model, epoch)
                    self.best = {"epoch": epoch, "score": score, "val": val, "tied": tied, "weights": content["digest"]}
                    if self.choose_on_test:
                        self.best["chosen_on"] = "test"
                    self.best["protocol_weights"] = {OFFICIAL: weight, **others}
                    save_checkpoint({**content, "best": self.best}, folder / BEST)
        self.best = broadcast_object(self.best)
        return scores[0] if scores else None

    def _best_weight(self, protocol: str, sets: Mapping[str, Embeddings]) -> float | None:
        """The weight of a protocol that is best on val; None where there is none to choose, or val cannot tell."""
        if self.model.ranking.by == (CAPTION if protocol == OFFICIAL else BOTH if protocol == "both" else None):
            return None  # t2i has one with a ranking by both only, whose weight is then that of `both` as well
        if self.identity_weight is not None and protocol not in SUMS:
            return None
        return choose_weight(protocol, list(sets.values()))

    def _set_ranking_weight(self, weight: float) -> None:
        for model in (self.model, self.tested_model):
            model.ranking = model.ranking._replace(weight=weight, chosen=True)

    def load_chosen(self, path: str | Path) -> None:
        """Loads the chosen weights into the model and its moving average.

        Raises:
            CheckpointError: when the file is missing or damaged.
        """
        if is_main_process():
            checkpoint = Checkpoint.read(path)
            check_same_training(checkpoint, self.record)
            state = checkpoint.content
            if state["digest"] != self.best["weights"]:
                # Saved by a run that was then killed; the repeated epoch had another score, as it may on a GPU. These
                # weights are the only ones left, so their score counts.
                epochs = state["epoch"], self.best["epoch"]
                logger.warning("'%s' is of epoch %d, which is used, not epoch %d", path, *epochs)
                self.best = state["best"]
            self.model.load_state_dict(state["state_dict"])
        self.best = broadcast_object(self.best)
        if (weight := self.best.get("protocol_weights", {}).get(OFFICIAL)) is not None:
            self._set_ranking_weight(weight)
        broadcast_weights(self.model)
        if self.tested_model is not self.model:
            self.tested_model.load_state_dict(self.model.state_dict())

    def evaluate(self, targets: Iterable[str]) -> dict[str, Metrics]:
        """Text-to-image metrics of each target, logged; empty except in the main process."""
        return self._log_official(self._embed(targets, [OFFICIAL]))

    def _log_official(self, sets: Mapping[str, Embeddings]) -> dict[str, Metrics]:
        metrics: dict[str, Metrics] = {}
        for target, embeddings in sets.items() if is_main_process() else ():
            values = metrics[target] = self._result(target, OFFICIAL, embeddings).metrics
            if self.writer is not None:
                for key, value in values.items():
                    self.writer.add_scalar(f"Test/{target}/{key}", value, self.epoch)
            if self.metrics_log is not None:
                self.metrics_log.write(epoch=self.epoch + 1, target=target, **values)
        return metrics

    def evaluate_protocols(
        self, targets: Iterable[str], protocols: Sequence[str], samples: int = 0, rerank: bool = False
    ) -> list[RetrievalResult]:
        """Results of each protocol on each target, from one pass over the data; empty except in the main process.

        ``ti2i`` and ``composed`` are followed by their baselines. Weights are those chosen on val, or else even.

        Args:
            targets: names of test targets.
            protocols: names of `PROTOCOLS`.
            samples: of the bootstrap for the intervals; 0 for none.
            rerank: also compute each protocol's metrics after k-reciprocal re-ranking.
        """
        results, protocols = [], with_baselines(protocols)
        for target in targets:
            (embeddings,) = self._embed([target], protocols).values()
            for protocol in protocols if is_main_process() else ():
                result = self._result(target, protocol, embeddings, samples, rerank)
                if protocol == OFFICIAL and self.test_loader[target]["gallery"].dataset.spec.has_msd:
                    assert result.task is not None
                    result.metrics.update(mean_similarity_distribution(result.task))
                results.append(result)
                if self.metrics_log is not None:
                    self.metrics_log.write(epoch=self.epoch + 1, target=target, protocol=protocol, **result.metrics)
        return results

    def write_answers(self, target: str, file: Path) -> None:
        """Writes the best photos of each caption of a target without labels."""
        (embeddings,) = self._embed([target], [OFFICIAL]).values()
        if is_main_process():
            task = PROTOCOLS[OFFICIAL].build_task(embeddings, self._weight(OFFICIAL, embeddings.ranking)[0])
            write_answers(file, task, [item[0] for item in self.test_loader[target]["gallery"].dataset.data])
            print(f"Answers to {target} are in '{file}'")

    def _embed(self, targets: Iterable[str], protocols: Iterable[str]) -> dict[str, Embeddings]:
        """Everything that the protocols need of each target."""
        self.set_model_mode("eval")
        sets, protocols = {}, list(protocols)
        for target in targets:
            loaders = self.test_loader[target]
            queries, gallery = loaders["query"], loaders["gallery"]
            own, plain = protocols, [name for name in protocols if not name.startswith(COMPOSED)]
            # A test target without outfits is refused before; a val target has nothing to choose for composed search.
            if len(plain) < len(own) and target in self.val_targets and "references" not in loaders:
                own = own if has_composed(queries.dataset.data, gallery.dataset.data) else plain
            embeddings = embed_target(self.tested_model, queries, gallery, own, target, loaders.get("references"))
            check_stop()
            if not gallery.dataset.spec.has_cameras:
                embeddings = embeddings._replace(camids=np.zeros_like(embeddings.camids))
            sets[target] = embeddings
        return sets

    def _result(
        self, target: str, protocol: str, embeddings: Embeddings, samples: int = 0, rerank: bool = False
    ) -> RetrievalResult:
        """The result of one protocol."""
        weight, on_val = self._weight(protocol, embeddings.ranking)
        task = PROTOCOLS[protocol].build_task(embeddings, weight)
        names = {"target": target, "protocol": protocol}
        result = evaluate_task(task, self.ranks, self.evaluator, samples, **names)
        if target in self.best.get("val", ()) and self.best.get("chosen_on") == "test":
            result.metrics["epoch_chosen_on"] = target
        if protocol in WEIGHTS and (protocol, embeddings.ranking.by) != (OFFICIAL, CAPTION):
            result.metrics.update(weight=weight, weight_chosen=on_val)
        queries, gallery = (self.test_loader[target][side].dataset.data for side in ("query", "gallery"))
        by_image = protocol in IMAGE_QUERY_PROTOCOLS
        items = gallery if by_image else queries
        keys = query_keys((path, "" if by_image else caption) for path, _, _, _, caption, *_ in items)
        reranked = reranked_metrics(task, self.ranks, samples) if rerank else None
        return replace(result, keys=keys[result.query_index], reranked=reranked)

    def _weight(self, protocol: str, ranking: Ranking) -> tuple[float, bool]:
        """The weight of a protocol, and whether val chose it."""
        if protocol in (OFFICIAL, "both") and ranking.by == BOTH:
            return ranking.weight, ranking.chosen
        chosen = self.best.get("protocol_weights", {}).get(SUMS.get(protocol, protocol))
        if chosen is not None:
            return chosen, True
        if protocol in SUMS:
            return 1.0, False
        return 0.5 if self.identity_weight is None else self.identity_weight, False


def describe_undecided(best: Metrics) -> str:
    """Why val could not distinguish the evaluated epochs, given `TrainingLoop.best`; empty if it could."""
    sizes = {target: metrics["identities"] for target, metrics in best.get("val", {}).items()}
    reasons = [f"{target} has {people} people, fewer than {FEW}" for target, people in sizes.items() if people < FEW]
    if len(tied := best.get("tied", ())) > 1:
        equal = "R@1 100 %" if best["score"] == 1 else "the same R@1 and mAP"
        reasons.append(f"epochs {', '.join(map(str, tied))} have {equal}")
    line = f"Validation could not distinguish the epochs: {'; '.join(reasons)}; use more validation people"
    return line if reasons else ""


def _mean_scores(val: Mapping[str, Metrics]) -> tuple[float, ...]:
    """R@1 and mAP, as means over the val sets; empty without one."""
    return tuple(float(np.mean([metrics[name] for metrics in val.values()])) for name in ("R@1", "mAP") if val)
