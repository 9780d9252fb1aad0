import pytest
import torch

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.losses import LOSSES, LossInputs, LossTerm, LossTerms
from t2ireid_plugin.losses.terms import comparing_photos

NAMES = [
    "info_nce", "cls", "bio", "cloth", "cloth_adv", "cloth_match", "decouple", "gate_regularization", "sdm", "tal",
    "tal_selected", "id", "id_features", "cmpm", "cmpc", "supcon", "triplet", "orthogonality", "fused_query",
    "composed_query",
    "cloth_leak", "mlm", "irr", "words", "cross_outfit", "leak", "n_itc", "n_itc_view", "r_itc", "c_itc", "simclr",
]  # fmt: skip


def all_terms(**changes):
    weights = {name: {"weight": 0.1 * (i + 1)} for i, name in enumerate(NAMES) if name != "irr"}  # not with mlm
    return LossTerms({**weights, **changes}, feature_dim=5, embed_dim=4, vocab_size=9, num_words=3)


def test_total_is_the_weighted_sum_of_the_values(make):
    losses = all_terms().double()
    total, values = losses(make.inputs([0, 1, 0, 2]))
    assert list(LOSSES) == NAMES
    assert list(values) == [name for name in NAMES if name != "irr"]
    assert not any(value.requires_grad for value in values.values())
    expected = sum(0.1 * (i + 1) * values[name].item() for i, name in enumerate(NAMES) if name in values)
    assert total.item() == pytest.approx(expected, abs=1e-9)
    total.backward()
    assert all(parameter.grad is not None for parameter in losses.parameters())


def test_a_term_of_every_third_step_has_the_same_mean_gradient(make):
    inputs = make.inputs([0, 1, 0, 2])
    terms = {"info_nce": {"weight": 1.0}, "sdm": {"weight": 0.5, "every": 3}, "cls": {"weight": 0.25, "every": 2}}
    always = LossTerms({name: {"weight": term["weight"]} for name, term in terms.items()})
    losses = LossTerms(terms)
    embeds = inputs.image_embeds.clone().requires_grad_()
    (expected,) = torch.autograd.grad(always(inputs._replace(image_embeds=embeds))[0], embeds)
    mean = torch.zeros_like(embeds)
    for step in range(1, 7):
        total, values = losses(inputs._replace(image_embeds=embeds, step=step))
        assert list(values) == ["info_nce"] + ["cls"] * (step % 2 == 0) + ["sdm"] * (step % 3 == 0)
        mean += torch.autograd.grad(total, embeds)[0] / 6
    torch.testing.assert_close(mean, expected)
    assert losses.needs_at(1) == losses.needs_at(3) == {"image_embeds", "id_text_embeds"}
    assert losses.needs_at(2) == losses.needs == {"image_embeds", "id_text_embeds", "id_logits"}


def test_values_are_those_of_the_terms_without_weight(make):
    inputs = make.inputs([0, 1, 0, 2])
    _, values = LossTerms({"sdm": {"weight": 3, "tau": 0.05}})(inputs)
    assert torch.equal(values["sdm"], make.term("sdm", tau=0.05)(inputs))


def test_autocast_does_not_lower_the_precision(make):
    inputs = make.inputs([0, 1, 0, 2], dtype=torch.float32)
    losses = all_terms()
    expected, _ = losses(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = losses(inputs)
    assert torch.equal(total, expected)


def test_needs_is_the_union_over_terms_with_a_weight_and_others_are_not_built():
    losses = LossTerms({"info_nce": {"weight": 1.0}, "bio": {"weight": 1.0}, "cls": {"weight": 0}})
    assert losses.needs == {"image_embeds", "id_text_embeds", "id_embeds"}
    assert list(losses.terms) == ["info_nce", "bio"]
    assert all_terms().needs < set(LossInputs._fields)


def test_dimensions_reach_the_projections():
    shapes = {name: tuple(p.shape) for name, p in all_terms().named_parameters()}
    assert shapes["terms.bio.projection.weight"] == shapes["terms.cloth.projection.weight"] == (4, 5)
    assert LossTerms({"bio": {"weight": 1}}).terms["bio"].projection.weight.shape == (256, 768)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"infonce": {"weight": 1.0}}, ["infonce", *NAMES]),
        ({"info_nce": {"weight": 1.0, "temperature": 0.1}}, ["info_nce", "temperature", "weight, tau"]),
        ({"decouple": {"weight": 1.0, "tau": 1.0}}, ["decouple", "tau", "valid: weight"]),
        ({"bio": {"weight": 1.0, "feature_dim": 3}}, ["bio", "feature_dim", "weight, tau"]),
        ({"info_nce": {"weight": -1}}, ["info_nce", "weight", "-1"]),
        ({"info_nce": {"weight": "heavy"}}, ["info_nce", "weight", "heavy"]),
        ({"info_nce": {"weight": True}}, ["info_nce", "weight", "True"]),
        ({"info_nce": {"weight": float("nan")}}, ["info_nce", "weight", "nan"]),
        ({"info_nce": {"tau": 0.1}}, ["info_nce", "no weight"]),
        ({"info_nce": 1.0}, ["info_nce", "mapping", "1.0"]),
        ({"info_nce": {"weight": 1, "tau": 0}}, ["info_nce", "tau", "above 0"]),
        ({"cls": {"weight": 1, "label_smoothing": 1.5}}, ["cls", "label_smoothing", "between 0 and 1"]),
        ({"cloth_adv": {"weight": 1, "ramp_start": -0.1}}, ["cloth_adv", "ramp_start", "between 0 and 1"]),
        ({"mlm": {"weight": 1, "share": 1.5}}, ["mlm", "share", "between 0 and 1"]),
        ({"mlm": {"weight": 1, "dim": 0}}, ["mlm", "dim", "whole number above 0"]),
        ({"mlm": {"weight": 1, "dim": True}}, ["mlm", "dim", "whole number above 0"]),
        ({"mlm": {"weight": 1, "num_layers": 1.5}}, ["mlm", "num_layers", "whole number above 0"]),
        ({"info_nce": {"weight": 1, "targets": "photo"}}, ["targets: unknown 'photo'; valid: identity, diagonal"]),
        ({"bio": {"weight": 1, "trained": 1}}, ["bio", "trained must be true or false, got 1"]),
        ({"cloth_match": {"weight": 1, "wrong_share": 2}}, ["wrong_share must be between 0 and 1"]),
        ({"gate_regularization": {"weight": 1, "of_each": "yes"}}, ["of_each must be true or false"]),
        ({"sdm": {"weight": 1, "every": 0}}, ["'sdm': every 0 must be a whole number"]),
        ({"sdm": {"weight": 1, "every": 2.0}}, ["'sdm': every 2.0 must be a whole number"]),
        ({"sdm": {"weight": 1, "every": True}}, ["'sdm': every True must be a whole number"]),
        ({"mlm": {"weight": 1}, "irr": {"weight": 1}}, ["'mlm' and 'irr' hide words by different rules"]),
        ({}, ["no loss", *NAMES]),
        ({"cls": {"weight": 0}}, ["no loss", *NAMES]),
    ],
)
def test_an_invalid_configuration_is_refused_with_the_valid_names(terms, words):
    with pytest.raises(ConfigError) as caught:
        LossTerms(terms)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_field_is_an_error_that_names_it(make):
    losses = LossTerms({"cls": {"weight": 1.0}})
    with pytest.raises(ConfigError, match="a loss needs id_logits, which the model did not return"):
        losses(make.inputs([0, 1, 0])._replace(id_logits=None))


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ("image_embed", r"'own': needs: unknown 'image_embed'; valid: pids, photos, image_embeds"),
        ("word_tokens", r"'own' needs 'word_tokens', which only mlm or irr provides; give one of them a weight"),
    ],
)
def test_a_term_that_reads_an_unavailable_field_is_refused_at_construction(monkeypatch, needs, message):
    class Own(LossTerm):
        def forward(self, inputs):
            return getattr(inputs, needs).mean()

    Own.needs = (needs,)
    monkeypatch.setitem(LOSSES, "own", Own)
    with pytest.raises(ConfigError, match=message):
        LossTerms({"own": {"weight": 1.0}})
    if needs == "word_tokens":
        LossTerms({"own": {"weight": 1.0}, "mlm": {"weight": 1.0}})


def test_terms_that_compare_photos_need_a_weight_to_count():
    terms = {"info_nce": {"weight": 1.0}, "fused_query": {"weight": 0.2}}
    assert comparing_photos(terms) == ["fused_query"]
    assert not comparing_photos({**terms, "fused_query": {"weight": 0}})


def test_words_are_hidden_only_for_mlm():
    assert LossTerms({"info_nce": {"weight": 1.0}}).hidden_share is None
    assert LossTerms({"mlm": {"weight": 1.0, "share": 0.3}}).hidden_share == 0.3
