"""Training losses: one term per file, named in `LOSSES` and summed by `LossTerms`.

Symbols: `B` rows of a batch (one photo with its texts each), `D` width of an embedding, `P` identities. A term is a
module with `forward(inputs: LossInputs) -> scalar` and a tuple `needs` of the fields it reads besides `pids`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.utils.lazy_table import LazyTable

if TYPE_CHECKING:
    from t2ireid_plugin.losses.base import LossInputs, LossTerm
    from t2ireid_plugin.losses.terms import LossTerms

__all__ = ["LOSSES", "LossInputs", "LossTerm", "LossTerms"]

LOSSES = LazyTable(
    {
        "info_nce": "t2ireid_plugin.losses.contrastive.InfoNCE",
        "cls": "t2ireid_plugin.losses.classification.IdentityClassification",
        "bio": "t2ireid_plugin.losses.projected.IdentityMatching",
        "cloth": "t2ireid_plugin.losses.projected.ClothingMatching",
        # after `cloth`, whose projection it shares
        "cloth_adv": "t2ireid_plugin.losses.cloth_adversarial.ClothFlattening",
        "cloth_match": "t2ireid_plugin.losses.cloth_match.ClothMatch",
        "decouple": "t2ireid_plugin.losses.decouple.Decouple",
        "gate_regularization": "t2ireid_plugin.losses.gate.GateRegularization",
        "sdm": "t2ireid_plugin.losses.sdm.SDM",
        "tal": "t2ireid_plugin.losses.tal.TAL",
        "tal_selected": "t2ireid_plugin.losses.tal.SelectedTAL",
        "id": "t2ireid_plugin.losses.shared_id.SharedIdentity",
        "id_features": "t2ireid_plugin.losses.shared_id.FeatureIdentity",
        "cmpm": "t2ireid_plugin.losses.cross_modal_projection.ProjectionMatching",
        "cmpc": "t2ireid_plugin.losses.cross_modal_projection.ProjectionClassification",
        "supcon": "t2ireid_plugin.losses.supcon.SupCon",
        "triplet": "t2ireid_plugin.losses.triplet.Triplet",
        "orthogonality": "t2ireid_plugin.losses.orthogonality.Orthogonality",
        "fused_query": "t2ireid_plugin.losses.fused_query.FusedQuery",
        "composed_query": "t2ireid_plugin.losses.composed_query.ComposedQuery",
        "cloth_leak": "t2ireid_plugin.losses.cloth_leak.ClothingLeak",
        "mlm": "t2ireid_plugin.losses.mlm.MaskedLanguage",
        "irr": "t2ireid_plugin.losses.irr.ImplicitRelations",
        "words": "t2ireid_plugin.losses.words.BranchWords",
        "cross_outfit": "t2ireid_plugin.losses.cross_outfit.CrossOutfit",
        "leak": "t2ireid_plugin.losses.leak.WordLeak",
        "n_itc": "t2ireid_plugin.losses.itc.NITC",
        "n_itc_view": "t2ireid_plugin.losses.itc.NITCView",
        "r_itc": "t2ireid_plugin.losses.itc.RITC",
        "c_itc": "t2ireid_plugin.losses.itc.CITC",
        "simclr": "t2ireid_plugin.losses.simclr.SimCLR",
    }
)


def __getattr__(name: str) -> Any:  # the classes import PyTorch
    if name in __all__:
        return getattr(importlib.import_module("t2ireid_plugin.losses.terms"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
