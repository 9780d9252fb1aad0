"""Properties of every loss: shapes, precision, gradients, and a correct `needs`."""

import pytest
import torch

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.losses import LOSSES, LossInputs

TENSORS = [name for name in LossInputs._fields if name not in ("pids", "photos", "clean", "epoch", "step", "progress")]
WHOLE_NUMBERS = ("word_mask", "hidden_words", "outfits", "composed_outfits", "id_words", "cloth_words")
DETACHED = {"orthogonality": "cloth_embeds", "cloth_leak": "cloth_text_embeds"}  # read without gradient
each_term = pytest.mark.parametrize("name", LOSSES)


def tensors_of(name):
    """The fields that a term reads and that can have a gradient."""
    return [field for field in LOSSES[name].needs if field in TENSORS and field not in WHOLE_NUMBERS]


def read_by(name):
    return [field for field in LOSSES[name].needs if field in TENSORS]


@each_term
@pytest.mark.parametrize("pids", [[0], [0, 0], [0, 1], [2] * 5, [0, 1, 2, 3, 4], [0, 1, 0, 2, 1]])
def test_value_and_gradients_are_finite(make, name, pids):
    inputs = make.inputs(pids)
    leaves = {field: getattr(inputs, field).requires_grad_() for field in tensors_of(name)}
    term = make.term(name)
    loss = term(inputs)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    learning = [leaf for field, leaf in leaves.items() if field != DETACHED.get(name)]
    for leaf in [*learning, *term.parameters()]:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


@each_term
def test_gradient_reaches_everything_the_term_reads(make, name):
    inputs = make.inputs([0, 1, 0, 2, 1])
    leaves = {field: getattr(inputs, field).requires_grad_() for field in tensors_of(name)}
    term = make.term(name)
    term(inputs).backward()
    for field, leaf in {**leaves, **dict(term.named_parameters())}.items():
        if field == DETACHED.get(name):
            assert leaf.grad is None, field
        else:
            assert leaf.grad.abs().max() > 1e-9, field


# A gradient that is stopped within the term is not that of its value: `tal`'s weights, the targets of N-ITC.
@pytest.mark.parametrize(
    "name", [name for name in LOSSES if name not in ("tal", "tal_selected", "n_itc", "n_itc_view")]
)
def test_gradcheck(make, name):
    inputs = make.inputs([0, 1, 0, 1], photos=[0, 1, 2, 1])
    fields = [field for field in tensors_of(name) if field != DETACHED.get(name)]
    term = make.term(name)

    def loss(*values):
        return term(inputs._replace(**dict(zip(fields, values, strict=True))))

    assert torch.autograd.gradcheck(loss, [getattr(inputs, field).requires_grad_() for field in fields])


@each_term
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(make, name, dtype):
    low = make.inputs([0, 1, 0, 2, 1], dtype=dtype)
    high = low._replace(**{field: getattr(low, field).double() for field in TENSORS if field not in WHOLE_NUMBERS})
    loss = make.term(name).float()(low)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), make.term(name)(high), rtol=1e-4, atol=1e-5)


@each_term
def test_needs_names_exactly_what_is_read(make, name):
    inputs = make.inputs([0, 1, 0, 2])
    term = make.term(name)
    only_needed = LossInputs(
        inputs.pids,
        inputs.photos,
        epoch=inputs.epoch,
        progress=inputs.progress,
        **{f: getattr(inputs, f) for f in read_by(name)},
    )
    assert torch.equal(term(only_needed), term(inputs))
    for field in read_by(name):
        with pytest.raises(ConfigError, match=field):
            term(inputs._replace(**{field: None}))


@each_term
def test_order_of_the_batch_does_not_matter(make, name):
    inputs = make.inputs([0, 1, 0, 2, 1], photos=[0, 1, 2, 3, 1])
    order = torch.tensor([3, 0, 4, 1, 2])
    rows = {f: getattr(inputs, f)[order] for f in ["pids", "photos", *TENSORS] if f != "scale"}
    term = make.term(name)
    torch.testing.assert_close(term(inputs._replace(**rows)), term(inputs))
