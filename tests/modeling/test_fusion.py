import pytest
import torch
import torch.nn.functional as F
from torch import nn

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.fusion import build_fusion
from t2ireid_plugin.modeling.settings import DEFAULT_FUSION, EMBED_DIM, check_fusion

B, DIM = 5, 8
WIDTH, PATCHES, WORDS = 10, 6, 7
TYPES = ["enhanced_mamba", "gated_mamba"]


@pytest.fixture
def build(make):
    def build(name, **changes):
        torch.manual_seed(0)
        config = {**DEFAULT_FUSION, "type": name, "dim": DIM, "output_dim": 6, "d_state": 3, **changes}
        return make.stir(build_fusion(config, width=WIDTH)).eval()

    return build


def pair(dtype=torch.float32):
    both = torch.randn(2, B, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    return F.normalize(both[0], dim=-1), F.normalize(both[1], dim=-1)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equals_the_specification_by_hand(build, naive, name, layers):
    fusion = build(name, num_layers=layers).double()
    image, text = pair(torch.float64)
    expected = naive.fusion(fusion.state_dict(), image, text, gated=name == "gated_mamba")
    for actual, reference in zip(fusion(image, text), expected):
        torch.testing.assert_close(actual.detach(), reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "learns"), [("enhanced_mamba", False), ("gated_mamba", True)])
def test_the_gate_gets_a_gradient_from_its_weights_and_if_gated_from_the_fused_embedding(build, name, learns):
    fusion = build(name)
    fusion(*pair())[0].square().sum().backward()
    for part in (fusion.gate, fusion.gate_attn):
        gradients = [p.grad for p in part.parameters()]
        assert any(g is not None and g.abs().max() > 0 for g in gradients) is learns
    assert fusion.fc.weight.grad.abs().max() > 0
    assert fusion.text_align[0].weight.grad.abs().max() > 0
    fusion.zero_grad()
    fusion(*pair())[1][:, 0].sum().backward()
    assert fusion.gate[0].weight.grad.abs().max() > 0


def test_both_types_load_each_others_weights(build):
    enhanced, gated = build("enhanced_mamba"), build("gated_mamba")
    torch.nn.init.normal_(enhanced.gate[3].weight)
    gated.load_state_dict(enhanced.state_dict())
    assert torch.equal(gated(*pair())[1], enhanced(*pair())[1])
    assert not torch.allclose(gated(*pair())[0], enhanced(*pair())[0], atol=1e-3)


def test_dropout_only_in_training_and_only_at_the_gate(build):
    default = build_fusion({**DEFAULT_FUSION, "type": "gated_mamba"}, width=WIDTH)
    assert default.gate_attn.dropout == default.gate[2].p == 0.1
    assert len([m for m in default.modules() if isinstance(m, nn.Dropout)]) == 1
    fusion = build("enhanced_mamba", dropout=0.5)
    image, text = (x.repeat(20, 1) for x in pair())
    assert torch.equal(fusion(image, text)[1], fusion(image, text)[1])
    fusion.train()
    torch.manual_seed(0)
    (fused, weights), (fused_again, weights_again) = fusion(image, text), fusion(image, text)
    assert not torch.allclose(weights, weights_again, atol=1e-4)
    assert torch.equal(fused, fused_again)


def test_the_type_and_its_arguments():
    with pytest.raises(ConfigError, match=r"'attention'.*enhanced_mamba.*gated_mamba"):
        check_fusion({**DEFAULT_FUSION, "type": "attention"}, EMBED_DIM)
    with pytest.raises(ConfigError, match=r"unknown d_stat; valid: type, dim, d_state"):
        check_fusion({**DEFAULT_FUSION, "d_stat": 16}, EMBED_DIM)


@pytest.fixture
def sequence(make):
    torch.manual_seed(0)
    config = {**DEFAULT_FUSION, "type": "sequence_mamba", "dim": DIM, "output_dim": 6, "d_state": 3, "num_layers": 2}
    return make.stir(build_fusion(config, width=WIDTH)).eval()


def tokens(dtype=torch.float32):
    """Patches, words and the mask of texts of 7, 1, 4, 7 and 2 words."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(B, PATCHES, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    text = torch.randn(B, WORDS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    mask = (torch.arange(WORDS) < torch.tensor([7, 1, 4, 7, 2])[:, None]).long()
    return image, text, mask


def test_a_sequence_is_scanned_from_both_ends(sequence, naive):
    """Each pair by itself, without padding, reversed with `flip`; the mixer is the oracle's."""
    fusion = sequence.double()
    image, text, mask = tokens(torch.float64)
    fused, weights = fusion(image, text, mask)
    state = fusion.state_dict()

    def mixer(kind, i, hidden):
        prefix = f"{kind}_layers.{i}."
        layer = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        return torch.from_numpy(naive.mamba(layer, hidden))

    with torch.no_grad():
        for b, length in enumerate(mask.sum(dim=1).tolist()):
            words = text[b : b + 1, :length]
            hidden = torch.cat([fusion.image_align(image[b : b + 1]), fusion.text_align(words)], dim=1)
            for i in range(2):
                behind = mixer("backward", i, hidden.flip(1)).flip(1)
                hidden = fusion.norms[i](hidden + mixer("forward", i, hidden) + behind)
            halves = hidden[0, :PATCHES].mean(dim=0), hidden[0, PATCHES:].mean(dim=0)
            share = fusion.gate(torch.cat(halves))
            expected = fusion.norm_final(fusion.fc(2 * torch.cat([share[0] * halves[0], share[1] * halves[1]])))
            torch.testing.assert_close(fused[b], expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(weights[b], share, rtol=0, atol=1e-10)


def test_padding_has_no_effect_and_gets_no_gradient(sequence):
    image, text, mask = tokens()
    expected = sequence(image, text, mask)
    noise = torch.where(mask[..., None].bool(), text, 100 * torch.randn_like(text))
    longer = torch.cat([noise, 1e3 * torch.ones(B, 5, WIDTH)], dim=1)
    torch.testing.assert_close(sequence(image, longer, F.pad(mask, (0, 5))), expected, rtol=0, atol=1e-6)
    text.requires_grad_()
    sequence(image, text, mask)[0].square().sum().backward()
    assert not text.grad[mask == 0].any()
    assert text.grad[mask == 1].abs().amax(dim=-1).min() > 0


def branches():
    """Identity and clothing of images and of texts, `[B, 2, DIM]` each."""
    both = torch.randn(2, B, 2, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return F.normalize(both, dim=-1).unbind()


def test_a_residual_starts_as_the_sum_of_both_branches():
    fusion = build_fusion({**DEFAULT_FUSION, "type": "residual", "dim": DIM}, width=WIDTH).double()
    image, text = branches()
    for mode in (True, False):  # dropout reaches the residual alone
        sums = image + text
        expected = sums.flatten(1) / sums.flatten(1).norm(dim=1, keepdim=True)
        torch.testing.assert_close(fusion.train(mode)(image, text).detach(), expected)


def test_a_residual_equals_a_loop(build):
    fusion = build("residual").double()
    torch.nn.init.normal_(fusion.weights)
    image, text = branches()
    weight, bias = fusion.last.weight.tolist(), fusion.last.bias.tolist()
    hidden, _, gate = fusion.gate
    for b in range(B):
        four = [x for side in (image, text) for branch in side[b].tolist() for x in branch]
        own = hidden.weight @ torch.tensor(four, dtype=torch.float64) * DIM**0.5 + hidden.bias
        own = own * (1 + torch.erf(own / 2**0.5)) / 2
        shares = (fusion.weights + (gate.weight @ own + gate.bias).view(2, 2)).tolist()
        query = []
        for k in range(2 * DIM):
            branch, place = divmod(k, DIM)
            total = shares[branch][0] * image[b, branch, place] + shares[branch][1] * text[b, branch, place]
            residual = bias[k] + sum(w * x * DIM**0.5 for w, x in zip(weight[k], four, strict=True))
            query.append(float(total) + residual / DIM**0.5)
        length = sum(x * x for x in query) ** 0.5
        assert fusion(image, text)[b].tolist() == pytest.approx([x / length for x in query])
