"""Does a learned fusion of a photo and words beat a weighted sum? The tables of docs/fusing.md:

    python -m benchmarks.fusing log/two/seed*/best.pth --root data/changes

Embeds the people of a data folder once with each trained model, and trains one fusion per kind on the frozen embeddings
of the training people, for both searches at once. Every fusion starts as the plain sum, is trained with the same
batches, loss and learning rate, and ends with the last step: nothing is chosen on the test people. Each checkpoint has
its own seed; differences are over people and seeds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
from t2ireid_plugin.losses.matching import query_loss
from t2ireid_plugin.modeling.fusion import ResidualFusion, zero_linear
from t2ireid_plugin.modeling.mamba import Mamba
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

NEEDS = ["t2i", "ti2i", "ti2i_sum", "composed", "composed_sum", "composed_pair"]
BASELINES = {
    "ti2i": ("ti2i_photo", "t2i", "ti2i_sum"),
    "composed": ("composed_photo", "composed_words", "composed_sum", "composed_pair"),
}
TAU = {"ti2i": 0.05, "composed": 0.02}
KINDS = ("gate", "linear", "residual", "mlp", "mamba")
PEOPLE, PHOTOS, STEPS, LR = 16, 4, 374, 1e-3  # of a batch; an epoch of the demo's configuration


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
    """`ResidualFusion` (``residual``) and its variants.

    Args:
        kind: ``gate`` has no linear layer and ``linear`` no gate; in ``mlp`` a hidden layer takes the linear one's
            place; in ``mamba`` gate and linear layer read a scan of the four embeddings in both directions.
        dim: width of each embedding.
    """

    def __init__(self, kind: str, dim: int = 256) -> None:
        super().__init__(dim, dropout=0.1)
        self.kind = kind
        if kind in ("linear", "mlp"):
            self.gate[2].requires_grad_(False)  # stays zero
        if kind == "gate":
            self.last.requires_grad_(False)
        if kind == "mlp":
            layers = nn.Linear(4 * dim, dim), nn.GELU(), zero_linear(dim, 2 * dim)
            self.last = nn.Sequential(*layers)  # type: ignore[assignment]
        if kind == "mamba":
            self.place, self.norm = nn.Parameter(torch.zeros(4, dim)), nn.LayerNorm(dim)
            self.ahead, self.back = (Mamba(dim, 16, 4) for _ in range(2))

    def read(self, vectors: Tensor) -> Tensor:
        """``[q, 4, D]`` to ``[q, 4 D]``."""
        if self.kind == "mamba":
            tokens = vectors[:, [2, 0, 3, 1]] + self.place  # text, photo; identity before clothing
            normed = self.norm(tokens)
            vectors = tokens + self.ahead(normed) + self.back(normed.flip(1)).flip(1)
        return super().read(vectors)


def draw(e: Embeddings, rng: torch.Generator) -> Tensor:
    """Rows of the photos of one batch: some people, some photos of each."""
    pids = torch.as_tensor(e.pids)
    people = pids.unique()
    chosen = people[torch.randperm(len(people), generator=rng)[:PEOPLE]]
    rows = [(pids == person).nonzero()[:, 0] for person in chosen]
    return torch.cat([own[torch.randperm(len(own), generator=rng)[:PHOTOS]] for own in rows])


def batch_queries(name: str, e: Embeddings, rows: Tensor, captions: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Photos and texts ``[b, 2, D]``, gallery ``[b, 2 D]``, matches and what is left out ``[b, b]``, as in training.

    Args:
        name: of the search.
        e: the training people's embeddings.
        rows: of the photos ``[b]``.
        captions: rows of the captions of each photo of the split ``[m, c]``.
        rng: draws captions, and the photos that go with words for another outfit.
    """
    pids, looks = torch.as_tensor(e.pids)[rows], torch.as_tensor(e.gallery_looks)[rows]
    texts = captions[rows, torch.randint(captions.shape[1], (len(rows),), generator=rng)]
    photo, matches, own = torch.arange(len(rows)), pids[:, None] == pids, (e.identity_parts, e.clothing_parts)
    if name == "composed":
        others = matches & (looks[:, None] != looks)
        matches = (looks[:, None] == looks) & others.any(1, keepdim=True)  # without another outfit, no query
        photo = torch.multinomial(others + 1e-9 * torch.eye(len(rows)), 1, generator=rng)[:, 0]
        own = e.identity_words, e.clothing_words
    left_out = F.one_hot(photo, len(rows)).bool()
    photos = torch.stack([e.images[rows[photo]], e.cloth_images[rows[photo]]], 1)
    gallery = F.normalize(torch.cat([e.images[rows], e.cloth_images[rows]], 1))
    return photos, torch.stack([part[texts] for part in own], 1), gallery, matches & ~left_out, left_out


def train(kind: str, e: Embeddings, seed: int, any_share: float) -> Fusion:
    """A fusion trained for both searches."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    fusion = Fusion(kind).train()
    captions = torch.as_tensor(e.described).argsort(stable=True).view(len(e.images), -1)  # as many of each photo
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    for _ in range(STEPS):
        rows, loss = draw(e, rng), torch.zeros(())
        for name, share in (("ti2i", any_share), ("composed", 0.0)):
            photos, texts, gallery, matches, left_out = batch_queries(name, e, rows, captions, rng)
            loss = loss + query_loss(fusion(photos, texts) @ gallery.T / TAU[name], matches, left_out, share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return fusion.eval()


@torch.no_grad()
def evaluate(fusion: Fusion, queries: Queries) -> RetrievalResult:
    """The result of a fusion for the queries of one search."""
    return evaluate_task(queries.task._replace(queries=fusion(queries.photos, queries.texts)))


def baselines(sets: Mapping[str, Embeddings]) -> dict[str, RetrievalResult]:
    """Test results of the baselines and of the model's own fusion, with weights chosen on val."""
    results = {}
    for name, rows in BASELINES.items():
        for row in (*rows, name):
            weighted = SUMS.get(row, row) in ("ti2i_sum", "composed_sum", "composed_pair")
            weight = choose_weight(SUMS.get(row, row), [sets["val"]]) if weighted else None
            results[row] = evaluate_task(PROTOCOLS[row].build_task(sets["test"], 1.0 if weight is None else weight))
    return results


def describe(label: str, results: Sequence[RetrievalResult], others: Mapping[str, Sequence[RetrievalResult]]) -> str:
    """R@1 and mAP of results with several seeds, and their differences from others with intervals."""
    shares = {metric: sum(r.metrics[metric] for r in results) / len(results) for metric in ("R@1", "mAP")}
    parts = [" ".join(f"{metric} {100 * share:.2f}" for metric, share in shares.items())]
    for row, baseline in others.items():
        differences = paired_difference(baseline, results)
        found = [(metric, 100 * (d.b - d.a), 100 * d.low, 100 * d.high) for metric, d in differences.items()]
        ends = (f"{m} {value:+.2f} [{low:+.2f}, {high:+.2f}]" for m, value, low, high in found if m in shares)
        parts.append(f"minus {row} {' '.join(ends)}")
    return f"{label}: {'; '.join(parts)}"


def main() -> None:
    """Prints a line per baseline and fusion of each search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="best.pth of models that rank by both branches, one per seed")
    parser.add_argument("--root", required=True, help="data.root of people in two outfits")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--any-share", type=float, default=1.0, help="of fused_query, see docs/losses.md")
    options = parser.parse_args()
    plain, learned = defaultdict(list), defaultdict(list)
    for seed, checkpoint in enumerate(options.checkpoints, 1):
        sets = embed(checkpoint, options.root)
        for row, result in baselines(sets).items():
            plain[row].append(result)
        for kind in options.kinds:
            fusion = train(kind, sets["train"], seed, options.any_share)
            for name in BASELINES:
                learned[name, kind].append(evaluate(fusion, queries_of(name, sets["test"])))
    for name, rows in BASELINES.items():
        best = {row: plain[row] for row in dict.fromkeys((f"{name}_sum", rows[-1]))}
        for row in rows:
            print(describe(row, plain[row], {}))
        print(describe(f"{name}, the models' own fusion", plain[name], best))
        for kind in options.kinds:
            print(describe(f"{name}, {kind}", learned[name, kind], best))


if __name__ == "__main__":
    main()
