"""Does a learned fusion of a photo and words beat a weighted sum? The tables of docs/fusing.md:

    python -m benchmarks.fusing log/two/best.pth data/changes

Embeds the people of a data folder once with a trained model, and trains fusions of the frozen vectors on the training
people, for the queries that they are meant for. All of them start as a weighted sum whose weights are the best on val,
see `Fusion`. The step is chosen on val. Differences are over people and seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.evaluation.bootstrap import paired_difference
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.metrics import choose_weight, evaluate_task
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, SUMS, Embeddings, RetrievalTask
from t2ireid_plugin.evaluation.result import RetrievalResult
from t2ireid_plugin.modeling.fusion import ResidualFusion, zero_linear
from t2ireid_plugin.modeling.mamba import Mamba
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

NEEDS = ["t2i", "ti2i", "ti2i_sum", "composed", "composed_sum", "composed_pair"]
BASELINES = {
    "ti2i": ("ti2i_photo", "t2i", "ti2i_sum"),
    "composed": ("composed_photo", "composed_words", "composed_sum", "composed_pair"),
}
TAU = {"ti2i": 0.05, "composed": 0.02}  # the better of 0.02, 0.05 and 0.1 on val
ANY = {"ti2i": 0.8, "composed": 0.0}  # share of the loss for the nearest match, the rest is for all; likewise
KINDS = {"weights": 2e-3, "linear": 1e-4, "mlp": 2e-4, "mamba": 1e-4}  # with their learning rates
PEOPLE, STEPS, EVERY = 100, 200, 50


class Queries(NamedTuple):
    """Photos with texts, each as ``[q, 2, D]`` for both branches, and the task that ranks for them."""

    photos: Tensor
    texts: Tensor
    task: RetrievalTask


def embed(checkpoint: str, root: str) -> dict[str, Embeddings]:
    """The embeddings of train, val and test people."""
    model = T2IReIDModel.from_checkpoint(checkpoint)
    transform, sets = TestTransform(*model.preprocess), {}
    dataset = CaptionDataset(root, spec=BENCHMARKS["cuhkpedes"], verbose=False)
    for split in ("train", "val", "test"):
        own = dataset.with_eval_split(split)
        sides: dict[str, DataLoader] = {
            mode: DataLoader(own.with_mode(mode, transform), batch_size=128) for mode in ("query", "gallery")
        }
        sets[split] = embed_target(model, sides["query"], sides["gallery"], NEEDS, split)
    return sets


def queries_of(name: str, e: Embeddings) -> Queries:
    """The queries of ``ti2i`` or ``composed``; their task has even weights of the branches, which a fusion learns."""
    plain = e._replace(ranking=e.ranking._replace(weight=0.5))
    task = PROTOCOLS[f"{name}_sum"].build_task(plain, 1.0)
    rows, texts = e.described, (e.identity_parts, e.clothing_parts)
    if name == "composed":
        rows, texts = e.references, (e.identity_words, e.clothing_words)
    return Queries(torch.stack([e.images[rows], e.cloth_images[rows]], 1), torch.stack(texts, 1), task)


class Fusion(ResidualFusion):
    """`ResidualFusion` with other starting weights and other residuals.

    Args:
        kind: of the residual: ``weights`` for none, ``linear`` or ``mlp`` of all four vectors, ``mamba`` for a scan of
            the four as a sequence in both directions.
        start: the four weights ``[2, 2]``, branch by photo and text.
    """

    def __init__(self, kind: str, start: Tensor, dim: int = 256) -> None:
        super().__init__(dim, dropout=0.1)
        self.kind, self.weights = kind, nn.Parameter(start.clone())
        if kind == "mlp":
            self.hidden = nn.Sequential(nn.Linear(4 * dim, dim), nn.GELU())
        if kind == "mamba":
            self.place, self.norm = nn.Parameter(torch.zeros(4, dim)), nn.LayerNorm(dim)
            self.ahead, self.back = (Mamba(dim, 16, 4) for _ in range(2))
        if kind in ("mlp", "mamba"):
            self.last = zero_linear(dim, 2 * dim)
        if kind == "weights":
            self.last.requires_grad_(False)

    def read(self, vectors: Tensor) -> Tensor:
        """``[q, 4, D]`` to ``[q, 4 D]``, or to ``[q, D]``."""
        if self.kind == "mamba":
            tokens = vectors[:, [2, 0, 3, 1]] + self.place  # text, photo; identity before clothing
            normed = self.norm(tokens)
            return F.gelu(tokens + self.ahead(normed) + self.back(normed.flip(1)).flip(1)).mean(1)
        return self.hidden(vectors.flatten(1)) if self.kind == "mlp" else vectors.flatten(1)


def train_batch(name: str, e: Embeddings, captions: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Photos and texts ``[q, 2, D]``, gallery ``[g, 2 D]``, matches and what is left out ``[q, g]`` of some people."""
    pids, looks = torch.as_tensor(e.pids), torch.as_tensor(e.gallery_looks)
    people = pids.unique()
    chosen = people[torch.randperm(len(people), generator=rng)[:PEOPLE]]
    rows = torch.isin(pids, chosen).nonzero()[:, 0]
    texts = captions[rows, torch.randint(captions.shape[1], (len(rows),), generator=rng)]
    gallery = F.normalize(torch.cat([e.images[rows], e.cloth_images[rows]], 1))
    same = pids[rows, None] == pids[rows]
    same_look = looks[rows, None] == looks[rows]
    photo, own = torch.arange(len(rows)), (e.identity_parts, e.clothing_parts)
    matches = same & ~torch.eye(len(rows), dtype=torch.bool)
    if name == "composed":
        photo = torch.multinomial((same & ~same_look).float(), 1, generator=rng)[:, 0]
        matches, own = same_look, (e.identity_words, e.clothing_words)
    photos = torch.stack([e.images[rows[photo]], e.cloth_images[rows[photo]]], 1)
    left_out = F.one_hot(photo, len(rows)).bool()
    return photos, torch.stack([part[texts] for part in own], 1), gallery, matches, left_out


def evaluate(fusion: Fusion, queries: Queries) -> RetrievalResult:
    """The result of a fusion on one split."""
    fusion.eval()
    with torch.no_grad():
        task = queries.task._replace(queries=fusion(queries.photos, queries.texts))
    return evaluate_task(task)


def fit(kind: str, name: str, sets: Mapping[str, Embeddings], start: Tensor, seed: int) -> tuple[Any, RetrievalResult]:
    """Trains a fusion; its mAP on val, and its test result."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    fusion, e = Fusion(kind, start), sets["train"]
    weights = {"params": [fusion.weights], "weight_decay": 0.0}
    others = {"params": [p for key, p in fusion.named_parameters() if key != "weights"], "weight_decay": 0.05}
    optimizer = torch.optim.AdamW([weights, others], lr=KINDS[kind])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (STEPS + 1))
    described = torch.as_tensor(e.described)
    captions = described.argsort(stable=True).view(len(e.images), -1)  # as many of each photo
    queries = {split: queries_of(name, sets[split]) for split in ("val", "test")}
    best: tuple[float, Any] = (-1.0, None)
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            score = evaluate(fusion, queries["val"]).metrics["mAP"]
            if score > best[0]:
                best = score, {key: value.clone() for key, value in fusion.state_dict().items()}
            fusion.train()
        photos, texts, gallery, matches, left_out = train_batch(name, e, captions, rng)
        logits = (fusion(photos, texts) @ gallery.T / TAU[name]).masked_fill(left_out, -1e4)
        logits = logits.log_softmax(1)
        all_matches = (logits * matches).sum(1) / matches.sum(1)
        any_match = logits.masked_fill(~matches, -1e4).logsumexp(1)
        loss = -torch.lerp(all_matches, any_match, ANY[name]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    fusion.load_state_dict(best[1])
    return best[0], evaluate(fusion, queries["test"])


def starts(name: str, weights: Mapping[str, float]) -> Tensor:
    """Weights of photo and text ``[2, 2]`` of each branch: those of the best sum, for composed of the best pair."""
    if name == "ti2i":
        a = weights["ti2i_sum"]
        return torch.tensor([[1.0, a], [1.0, a]]) / (1 + a)
    w = weights["composed_pair"]
    return torch.tensor([[w, 0.0], [0.0, 1 - w]])


def describe(label: str, results: Sequence[RetrievalResult], baselines: Mapping[str, RetrievalResult]) -> str:
    """R@1 and mAP of results with several seeds, and their differences from each baseline with intervals."""
    parts = []
    for row, baseline in baselines.items():
        for metric, d in paired_difference([baseline] * len(results), results).items():
            if metric in ("R@1", "mAP"):
                ends = f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
                parts.append(f"{metric} {100 * d.b:.2f}, minus {row} {100 * d.value:+.2f} {ends}")
    return f"{label}: {'; '.join(parts)}"


def main() -> None:
    """Prints a line per baseline and fusion of each protocol."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="best.pth of a model that ranks by both branches")
    parser.add_argument("root", help="data.root of people in two outfits")
    parser.add_argument("--protocols", nargs="+", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    sets = embed(options.checkpoint, options.root)
    test = sets["test"]
    chosen = {name: choose_weight(name, [sets["val"]]) for name in ("ti2i_sum", "composed_sum", "composed_pair")}
    weights = {name: weight for name, weight in chosen.items() if weight is not None}
    print(f"weights chosen on val: {weights}")
    for name in options.protocols:
        plain = {}
        for row in (*BASELINES[name], name):
            task = PROTOCOLS[row].build_task(test, weights.get(SUMS.get(row, row), 1.0))
            plain[row] = evaluate_task(task)
            shares = (f"{metric} {100 * plain[row].metrics[metric]:.2f}" for metric in ("R@1", "mAP"))
            print(f"{row}: {' '.join(shares)}", flush=True)
        own = plain.pop(name)
        best = {row: plain[row] for row in dict.fromkeys((f"{name}_sum", BASELINES[name][-1]))}
        print(describe(f"{name}, the model's own fusion", [own], best), flush=True)
        for kind in options.kinds:
            scores, results = zip(
                *(fit(kind, name, sets, starts(name, weights), seed) for seed in range(1, options.seeds + 1))
            )
            on_val = ", ".join(f"{100 * score:.2f}" for score in scores)
            print(describe(f"{name}, {kind} (val mAP {on_val})", results, best), flush=True)


if __name__ == "__main__":
    main()
