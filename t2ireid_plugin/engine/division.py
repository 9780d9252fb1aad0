"""Confident consensus division (CCD) of RDE: which training pairs an epoch learns from, by their losses before it.

Qin et al., "Noisy-Correspondence Learning for Text-to-Image Person Re-identification", CVPR 2024, as in the authors'
code (github.com/QinYang79/RDE, ``processor/processor.py``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from t2ireid_plugin.data.sampling import SampleKey, derive_seed, seed_all
from t2ireid_plugin.losses import LossInputs
from t2ireid_plugin.utils.distributed import all_gather_list, broadcast_object, rank, world_size
from t2ireid_plugin.utils.signals import check_stop

if TYPE_CHECKING:
    from t2ireid_plugin.engine.text_image import TextImageEngine

_DIVISION = 3  # distinguishes the seeds of the division from other seeds, see `derive_seed`


class ConsensusDivision:
    """The labels of an epoch's training pairs, part of the training state.

    Args:
        **mixture: ``max_iter``, ``tol`` and ``reg_covar`` of scikit-learn's `GaussianMixture`.
    """

    def __init__(self, **mixture: Any) -> None:
        self.mixture = mixture
        self.epoch = -1  # that the labels are of
        self.clean = torch.empty(0)  # [N] 1 for a pair to learn from, else 0

    def update(self, engine: TextImageEngine) -> None:
        """Divides the training pairs for the engine's epoch; a resumed epoch keeps the labels that it began with."""
        if self.epoch != engine.epoch:
            losses = pair_losses(engine)
            seed = derive_seed(engine.seed, engine.epoch, _DIVISION)
            clean = consensus(losses.numpy(), seed, **self.mixture)  # [N]
            self.epoch, self.clean = engine.epoch, broadcast_object(torch.from_numpy(clean).float())
            print(f"Epoch {self.epoch + 1} learns from {int(self.clean.sum()):,} of {len(clean):,} pairs (loss.ccd)")

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"epoch": self.epoch, "clean": self.clean.to(torch.uint8)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.epoch, self.clean = state["epoch"], state["clean"].float()


@torch.no_grad()
def pair_losses(engine: TextImageEngine) -> Tensor:
    """The loss of each training pair by each term that weighs pairs, ``[N, n]``; NaN where an image cannot be read.

    All pairs in random batches, augmented as in training, with the model in eval mode. Each process takes whole
    batches, as the negatives of a pair are those of its batch.
    """
    engine.set_model_mode("eval")
    train: Any = engine.train_loader
    seed, size, pairs = (engine.seed, engine.epoch, _DIVISION), train.batch_sampler.batch_size, len(train.dataset)
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(derive_seed(*seed))).tolist()
    keys = [SampleKey(item, derive_seed(*seed, place)) for place, item in enumerate(order)]
    batches = [keys[start : start + size] for start in range(0, pairs, size)]
    options = {name: getattr(train, name) for name in ("num_workers", "pin_memory", "worker_init_fn")}
    own = iter(type(train)(train.dataset, batch_sampler=batches[rank() :: world_size()], **options))
    found: list[tuple[Tensor, Tensor]] = []
    for turn in range(math.ceil(len(batches) / world_size())):
        check_stop()  # equally often in all processes
        if (data := next(own, None)) is not None:
            seed_all(derive_seed(*seed, -1, turn * world_size() + rank()))  # some losses hide words at random
            own_image = [not problem for problem in data.get("bad_image", ("",) * len(data["index"]))]
            found.append((data["index"][own_image], _losses_of(engine, data).cpu()[own_image]))
    places, values = zip(*all_gather_list(found))
    losses = torch.full((pairs, values[0].shape[1]), torch.nan, dtype=torch.float32)
    losses[torch.cat(places)] = torch.cat(values).float()
    return losses


def _losses_of(engine: TextImageEngine, data: dict[str, Any]) -> Tensor:
    """``[B, n]`` of a batch."""
    images, labels, *texts = engine.parse_data_for_train(data)
    with engine.precision.autocast():
        outputs = engine.outputs_of(images, *texts)
    inputs = LossInputs(**{**labels, **outputs})
    return torch.stack([term.per_pair(inputs) for term in engine.losses.weighing_pairs], dim=1)


def consensus(losses: npt.NDArray[np.float32], seed: int, **mixture: Any) -> npt.NDArray[np.bool_]:
    """Whether each pair counts: ``[N, n]`` losses to ``[N]``.

    A pair that all terms find clean counts, one that none does does not, and chance decides on the others. Pairs
    without a loss do not count.
    """
    known = ~np.isnan(losses).any(axis=1)
    chance = np.random.RandomState(seed)
    votes = np.stack([confident(column, chance, **mixture) for column in losses[known].T], axis=1)  # [known, n]
    agreed = votes.sum(axis=1)
    counts, undecided = agreed == votes.shape[1], (agreed > 0) & (agreed < votes.shape[1])
    coins = torch.randint(0, 2, (int(undecided.sum()),), generator=torch.Generator().manual_seed(seed))
    counts[undecided] = coins.numpy() == 1
    clean = np.zeros(len(losses), dtype=bool)
    clean[known] = counts
    return clean


def confident(losses: npt.NDArray[np.float32], chance: np.random.RandomState, **mixture: Any) -> npt.NDArray[np.bool_]:
    """Whether the part with the lower mean of a mixture of two Gaussians has a loss with more than even odds.

    Where it has all of them, all above the 1st percentile of these odds count.
    """
    from sklearn.mixture import GaussianMixture  # on use, as loading it takes a second

    spread = losses.max() - losses.min()
    if spread == 0:
        return np.ones(len(losses), dtype=bool)
    scaled = ((losses - losses.min()) / spread).reshape(-1, 1)
    parts = GaussianMixture(2, random_state=chance, **mixture).fit(scaled)
    odds = parts.predict_proba(scaled)[:, parts.means_.argmin()]
    threshold = np.sort(odds)[len(odds) // 100] if odds.min() > 0.5 else 0.5
    return np.asarray(odds > threshold)
