"""The weighted sum of the losses that a configuration names."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, check_choice, check_keys, short_repr
from t2ireid_plugin.losses import LOSSES
from t2ireid_plugin.losses.arguments import number
from t2ireid_plugin.losses.base import MLM_INPUTS, MLM_TERMS, LossInputs, LossTerm
from t2ireid_plugin.losses.irr import ImplicitRelations
from t2ireid_plugin.losses.itc import LogitScaled
from t2ireid_plugin.losses.mlm import MaskedLanguage
from t2ireid_plugin.losses.tal import TAL

# Arguments that LossTerms supplies to the terms that take them; a configuration cannot set them.
SUPPLIED = (
    *("feature_dim", "embed_dim", "num_classes", "vocab_size", "num_words"),
    *("id_projection", "cloth_projection", "logit_scale"),
)


def arguments_of(name: str) -> dict[str, Any]:
    """Arguments of the loss `name` that a configuration sets besides its weight, with their defaults."""
    parameters = inspect.signature(LOSSES[name]).parameters
    own = {key: parameter.default for key, parameter in parameters.items() if key not in SUPPLIED}
    return {**own, "every": 1}


def read_weight(name: str, settings: object) -> float:
    """Weight of the loss `name`, after checking that the loss and all its settings exist."""
    check_choice("loss", name, LOSSES)
    if not isinstance(settings, Mapping):
        raise ConfigError(f"loss {name!r} must be a mapping such as {{'weight': 1.0}}, got {settings!r}")
    check_keys(f"loss {name!r}", settings, ["weight", *arguments_of(name)])
    if "weight" not in settings:
        raise ConfigError(f"loss {name!r} has no weight; give it one, 0 to leave the loss out")
    every = settings.get("every", 1)
    if type(every) is not int or every < 1:
        raise ConfigError(f"loss {name!r}: every {short_repr(every)} must be a whole number of steps of at least 1")
    return number(f"loss {name!r}: weight", settings["weight"], low=0.0)


def comparing_photos(terms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the terms with a weight that compare photos of one person, and are 0 where a batch has only one."""
    return [name for name, settings in terms.items() if settings["weight"] > 0 and LOSSES[name].several_photos]


def reading(terms: Mapping[str, Mapping[str, Any]], fields: Iterable[str]) -> list[str]:
    """Names of the terms with a weight that read one of these fields of `LossInputs`."""
    return [name for name, settings in terms.items() if settings["weight"] > 0 and {*LOSSES[name].needs} & {*fields}]


class LossTerms(nn.Module):
    """Weighted sum of the losses that a configuration names.

    `terms` maps names of `LOSSES` to weights and arguments: `{"info_nce": {"weight": 1.0, "tau": 0.1}}`. A weight of 0
    leaves a term out; `every: n` computes it on every n-th training step, with n times its weight. Some terms have
    parameters (`bio`, `cloth`, `cloth_adv`, `cmpc`, `id`, `id_features`, `irr`, `mlm`, `n_itc`, `n_itc_view`, `r_itc`,
    `simclr`, `words`) or a memory (`leak`): give `parameters()` to the optimizer and `state_dict()` to the checkpoint.
    """

    def __init__(
        self,
        terms: Mapping[str, Mapping[str, Any]],
        feature_dim: int = 768,
        embed_dim: int = 256,
        num_classes: int = 8000,
        vocab_size: int = 30522,
        num_words: int = 300,
    ) -> None:
        super().__init__()
        weights = {name: read_weight(name, settings) for name, settings in terms.items()}
        self.weights = {name: weights[name] for name in LOSSES if weights.get(name, 0.0) > 0}
        self.every: dict[str, int] = {name: terms[name].get("every", 1) for name in self.weights}
        if not self.weights:
            raise ConfigError(f"no loss has a weight above 0; valid losses: {', '.join(LOSSES)}")
        for name in self.weights:
            for field in LOSSES[name].needs:
                check_choice(f"loss {name!r}: needs", field, LossInputs._fields)
                if field in MLM_INPUTS and not {*MLM_TERMS} & {*self.weights}:
                    raise ConfigError(
                        f"loss {name!r} needs {field!r}, which only mlm or irr provides; give one of them a weight"
                    )
        if {*MLM_TERMS} <= {*self.weights}:
            raise ConfigError("losses 'mlm' and 'irr' hide words by different rules; give one of them weight 0")
        self.terms = nn.ModuleDict()
        supplied: dict[str, Any] = {
            "feature_dim": feature_dim,
            "embed_dim": embed_dim,
            "num_classes": num_classes,
            "vocab_size": vocab_size,
            "num_words": num_words,
        }
        shared = {"bio": "id_projection", "cloth": "cloth_projection"}
        for name in self.weights:
            term: type[LossTerm] = LOSSES[name]
            settings = {**supplied, **terms[name]}
            arguments = {key: settings[key] for key in inspect.signature(term).parameters if key in settings}
            try:
                self.terms[name] = term(**arguments)
            except ConfigError as error:
                raise ConfigError(f"loss {name!r}: {error}") from error
            if name in shared:
                supplied[shared[name]] = self.terms[name].projection
            if isinstance(own := self.terms[name], LogitScaled):
                supplied["logit_scale"] = own.logit_scale

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `LossInputs` that the terms read, besides `pids`."""
        return self.needs_at(0)

    def needs_at(self, step: int) -> frozenset[str]:
        """Those of `needs` that the terms of a training step read, counted from 1; 0 for all terms."""
        return frozenset(field for name in self._due(step) for field in LOSSES[name].needs)

    def _due(self, step: int) -> list[str]:
        return [name for name, every in self.every.items() if step % every == 0]

    @property
    def hidden_share(self) -> float | None:
        """Share of the words that the model must hide for `mlm`; None without it."""
        return next((term.share for term in self.terms.values() if isinstance(term, MaskedLanguage)), None)

    @property
    def irr(self) -> ImplicitRelations | None:
        """The term `irr`; None without it."""
        return next((term for term in self.terms.values() if isinstance(term, ImplicitRelations)), None)

    @property
    def weighing_pairs(self) -> list[TAL]:
        """The terms that weigh pairs by `LossInputs.clean`."""
        return [term for term in self.terms.values() if isinstance(term, TAL)]

    def each(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Each term's own value without its weight, by name; without the terms that this step leaves out."""
        # Under autocast the similarities would be computed in half precision, whatever their inputs are.
        with torch.autocast(inputs.pids.device.type, enabled=False):
            return {name: self.terms[name](inputs) for name in self._due(inputs.step)}

    def weighted(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of `each` times their weights, so that a term's mean gradient over steps is that of its weight."""
        return {name: self.weights[name] * self.every[name] * value for name, value in values.items()}

    def forward(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of weight * term, and each term's own value without its weight, detached, by name."""
        values = self.each(inputs)
        total = sum(self.weighted(values).values(), start=torch.zeros((), device=inputs.pids.device))
        return total, {name: value.detach() for name, value in values.items()}
