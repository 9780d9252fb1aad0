"""Text-to-image person re-identification for torchreid.

Importing this package registers its models and datasets with torchreid.

Symbols used in shapes throughout: ``B`` batch, ``n`` number of texts, ``L`` tokens of a sequence, ``D`` width of an
encoder (768 at full size), ``H`` x ``W`` height and width of an image, ``P`` training identities.

Words used throughout: a *query* is what is searched for (here a text), the *gallery* the images searched in; *pid*
the identity of a person, *camid* the camera of an image; *CMC* or R@k the share of queries with a match among the
first k; *mAP* the mean over queries of the average precision; *mINP* the mean of the share of correct images among all
those up to the last correct one; an *embedding* the vector that is compared, *logits* the scores of a classifier.
"""

from t2ireid_plugin.config import get_cfg
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel, T2IReIDOutput
from t2ireid_plugin.modeling.torchreid_model import T2IReIDImageModel
from t2ireid_plugin.registration import register, register_model_variant

__version__ = "0.1.0"
__all__ = [
    "T2IReIDImageModel",
    "T2IReIDModel",
    "T2IReIDOutput",
    "__version__",
    "get_cfg",
    "register",
    "register_model_variant",
]

register()
