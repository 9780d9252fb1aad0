"""Training losses: one term a file, `LOSSES` names them, `LossTerms` sums what a configuration asks for.

Symbols: `B` rows of a batch (one photo with one text each), `D` width of an embedding, `P` identities.
Every term is a module with `forward(inputs: LossInputs) -> scalar` and a tuple `needs` of the fields it
reads besides `pids`.
"""

from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs
from t2ireid_plugin.losses.terms import LOSSES, LossTerms

__all__ = ["LOSSES", "LossInputs", "LossTerm", "LossTerms"]
