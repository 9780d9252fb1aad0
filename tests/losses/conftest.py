"""Random batches, and the oracles' scalar arithmetic, which uses neither tensors nor the package."""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from t2ireid_plugin.losses import LOSSES, LossInputs

torch.set_num_threads(1)

FEATURE_DIM, EMBED_DIM, NUM_CLASSES, VOCAB, WORDS, PATCHES, NUM_WORDS = 5, 4, 6, 9, 3, 2, 3


def random_inputs(pids, photos=None, seed=0, dtype=torch.float64, epoch=3.0):
    """LossInputs with every field filled; `photos` are all different unless given."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(pids)

    def normal(dim):
        return torch.randn(batch, dim, generator=generator, dtype=torch.float64)

    def unit():
        return F.normalize(normal(EMBED_DIM), dim=-1)

    fields = {
        "image_embeds": unit(),
        "id_text_embeds": unit(),
        "fused_embeds": unit(),
        "id_logits": normal(NUM_CLASSES),
        "id_embeds": normal(FEATURE_DIM),
        "cloth_embeds": normal(FEATURE_DIM),
        "cloth_text_embeds": unit(),
        "cloth_image_embeds": unit(),
        "gate": normal(FEATURE_DIM).sigmoid(),
        "gate_weights": normal(2).softmax(dim=1),
        "scale": torch.tensor([1.3]),
        "id_text_features": normal(FEATURE_DIM),
        "selected_image_embeds": normal(EMBED_DIM),
        "selected_text_embeds": normal(EMBED_DIM),
        "composed_embeds": F.normalize(torch.cat([unit(), unit()], dim=1), dim=-1),
        "image_tokens": torch.stack([normal(FEATURE_DIM) for _ in range(PATCHES)], dim=1),
        "word_tokens": torch.stack([normal(FEATURE_DIM) for _ in range(WORDS)], dim=1),
        "view_embeds": unit(),
        "simclr_features": torch.stack([normal(FEATURE_DIM), normal(FEATURE_DIM)], dim=1),
    }
    fields = {name: value.to(dtype) for name, value in fields.items()}
    lengths = WORDS - torch.arange(batch)[:, None] % 2  # every other text is shorter
    words = torch.randint(VOCAB, (batch, WORDS), generator=generator)
    fields["word_mask"] = (torch.arange(WORDS) < lengths).long()
    fields["hidden_words"] = torch.where(torch.arange(WORDS) == 1, words, -100)
    fields["outfits"] = torch.tensor([pids[:row].count(pid) for row, pid in enumerate(pids)])
    others = [[other for other, pid in enumerate(pids) if pid == own and other != row] for row, own in enumerate(pids)]
    fields["composed_outfits"] = torch.tensor([int(fields["outfits"][other[0]]) if other else -1 for other in others])
    for name in ("id_words", "cloth_words"):
        fields[name] = torch.randint(2, (batch, NUM_WORDS), generator=generator).float()
    photos = list(range(batch)) if photos is None else photos
    return LossInputs(torch.tensor(pids), torch.tensor(photos), epoch=epoch, progress=0.5, **fields)


def build(name, **arguments):
    """The term `name` in float64 at the dimensions of `random_inputs`, seeded, in eval mode so that it forgets batches.

    No term has dropout.
    """
    torch.manual_seed(7)
    sizes = {
        "feature_dim": FEATURE_DIM,
        "embed_dim": EMBED_DIM,
        "num_classes": NUM_CLASSES,
        "vocab_size": VOCAB,
        "num_words": NUM_WORDS,
        "dim": 4,
    }
    taken = inspect.signature(LOSSES[name]).parameters
    return LOSSES[name](**{key: size for key, size in sizes.items() if key in taken} | arguments).double().eval()


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / (math.sqrt(dot(a, a)) * math.sqrt(dot(b, b)))


def log_softmax(row):
    return [x - math.log(sum(math.exp(y) for y in row)) for x in row]


def matching(queries, candidates, pids, tau):
    """Mean over the queries of the mean -log p over the candidates of the same identity."""
    total = 0.0
    for i, query in enumerate(queries):
        log_p = log_softmax([cosine(query, candidate) / tau for candidate in candidates])
        positives = [j for j in range(len(pids)) if pids[j] == pids[i]]
        total += -sum(log_p[j] for j in positives) / len(positives)
    return total / len(queries)


def project(linear, features):
    """`features` (list of rows) through `linear`, one output at a time."""
    weight, bias = linear.weight.tolist(), linear.bias.tolist()
    return [[dot(w, row) + b for w, b in zip(weight, bias, strict=True)] for row in features]


@pytest.fixture(scope="session")
def make():
    """`make.inputs(pids, ...)` and `make.term(name, ...)`."""
    return SimpleNamespace(inputs=random_inputs, term=build)


@pytest.fixture(scope="session")
def naive():
    """The oracles' arithmetic."""
    return SimpleNamespace(cosine=cosine, log_softmax=log_softmax, matching=matching, project=project)
