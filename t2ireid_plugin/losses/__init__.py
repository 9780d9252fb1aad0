"""Training losses: one term per file, named in `LOSSES` and summed by `LossTerms`.

Symbols: `B` rows of a batch (one photo with its texts each), `D` width of an embedding, `P` identities. A term is a
module with `forward(inputs: LossInputs) -> scalar` and a tuple `needs` of the fields it reads besides `pids`.
"""

from t2ireid_plugin.losses.base import LossInputs, LossTerm
from t2ireid_plugin.losses.terms import LOSSES, LossTerms

__all__ = ["LOSSES", "LossInputs", "LossTerm", "LossTerms"]
