import pytest
import torch
from torch import nn

from benchmarks.literal import LiteralDisentangle
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.disentangle import DisentangleModule, outside_window, stripe_means
from t2ireid_plugin.modeling.settings import CROSSES, POOLS, TOKENS, check_disentangle, check_rows

B, L, D = 3, 5, 12


@pytest.fixture
def module(make):
    torch.manual_seed(0)
    return make.stir(DisentangleModule(D))


def tokens(dtype=torch.float32):
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("mode", ["train", "eval"])  # no dropout here, so training gives the same
def test_equals_the_listing(module, mode):
    listing = LiteralDisentangle(D)
    listing.load_state_dict(module.state_dict())
    getattr(module, mode)(), getattr(listing, mode)()
    with torch.no_grad():
        for actual, expected in zip(module(tokens()), listing(tokens())):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_learns_as_the_listing_does(module):
    listing = LiteralDisentangle(D).double()
    listing.load_state_dict(module.double().state_dict())
    weights = torch.randn(3, B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = []
    for network in (module, listing):
        inputs.append(tokens(torch.float64).requires_grad_())
        sum((w * out).sum() for w, out in zip(weights, network(inputs[-1]))).backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-6)
    expected = dict(listing.named_parameters())
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=0, atol=1e-6, msg=name)


def test_the_attention_weights_reproduce_the_attention(module):
    """Weights times values, computed from the layers' parameters, equal the attention's output in the forward pass."""
    seen = {}
    for name in ("id_attn", "cloth_attn"):
        getattr(module, name).register_forward_hook(
            lambda _, args, kwargs, out, name=name: seen.update({name: (kwargs["query"], out)}), with_kwargs=True
        )
    with torch.no_grad():
        module(tokens())
        from_forward = dict(seen)
        weights = dict(zip(("id_attn", "cloth_attn"), module.attention_weights(tokens())))
    for name, (projected, (attended, no_weights)) in from_forward.items():
        attention = getattr(module, name)
        assert no_weights is None  # not computed in the forward pass
        assert weights[name].shape == (B, 4, L, L)
        assert (weights[name] >= 0).all()
        torch.testing.assert_close(weights[name].sum(dim=-1), torch.ones(B, 4, L), rtol=0, atol=1e-6)
        value = nn.functional.linear(projected, attention.in_proj_weight[2 * D :], attention.in_proj_bias[2 * D :])
        heads = value.view(B, L, 4, D // 4).transpose(1, 2)  # [B, heads, L, D / heads]
        joined = (weights[name] @ heads).transpose(1, 2).reshape(B, L, D)
        torch.testing.assert_close(attention.out_proj(joined), attended, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_choice_has_the_same_parameters_and_outputs(make, tokens):
    reference = {name: p.shape for name, p in DisentangleModule(D).named_parameters()}
    check_disentangle({"tokens": tokens, "window": 3})
    module = make.stir(DisentangleModule(D, tokens=tokens, window=3))
    assert {name: p.shape for name, p in module.named_parameters()} == reference
    id_feature, cloth_feature, gate = module(torch.randn(B, 7, D), grid=(2, 3))
    assert id_feature.shape == cloth_feature.shape == gate.shape == (B, D)
    (id_feature.sum() + cloth_feature.sum()).backward()
    assert all(p.grad is not None for name, p in module.named_parameters())


@pytest.mark.parametrize(
    ("tokens", "pool"),
    [("cls", lambda x: x[:, :1]), ("mean", lambda x: x.mean(1, True)), ("max", lambda x: x.max(1, True).values)],
)
def test_pooled_choices_are_the_listing_on_one_token(module, tokens, pool):
    x = torch.randn(B, L, D)
    expected = module(pool(x))
    module.tokens = tokens
    torch.testing.assert_close(module(x), expected)


def test_outside_window_equals_a_naive_loop():
    rows, columns, front, window = 4, 3, 2, 3
    mask = outside_window(front + rows * columns, rows, columns, window)
    for i in range(front + rows * columns):
        for j in range(front + rows * columns):
            if i < front:
                allowed = True
            elif j < front:
                allowed = False
            else:
                (r, c), (s, d) = divmod(i - front, columns), divmod(j - front, columns)
                allowed = abs(r - s) <= 1 and abs(c - d) <= 1
            assert mask[i, j] == (not allowed), (i, j)


def test_a_window_over_the_whole_grid_is_full_attention(module):
    x = torch.randn(B, 6, D)
    expected = module(x)
    module.tokens, module.window = "window", 5
    torch.testing.assert_close(module(x, (2, 3)), expected)


def test_attention_weights_stay_in_the_window(module):
    module.tokens, module.window = "window", 3
    mask = outside_window(13, 4, 3, 3)
    for weights in module.attention_weights(torch.randn(B, 13, D), (4, 3)):
        assert not weights[..., mask].any()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("tokens", ["cls", "mean", "max"])
def test_one_pooled_token_has_no_attention_weights(module, tokens):
    module.tokens = tokens
    with pytest.raises(ConfigError, match=f"'{tokens}' has no attention"):
        module.attention_weights(torch.randn(B, L, D))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokens": "some"}, r"unknown 'some'; valid: all, cls, mean, max, window"),
        ({"window": 4}, r"window: 4 must be an odd number"),
        ({"pool": "max"}, r"pool: unknown 'max'; valid: mean, stripes, attention"),
        ({"cross": "both"}, r"cross: unknown 'both'; valid: other, own, none"),
        ({"stripes": 0}, r"stripes: 0 must be a whole number of at least 1"),
        ({"pool": "stripes", "tokens": "max"}, r"pool: 'stripes' needs a token per patch, and .*tokens 'max'"),
        ({"pool": "attention", "tokens": "cls"}, r"pool: 'attention' needs a token per patch"),
        ({"token": "all"}, r"unknown token; valid: type, dim, tokens, window, pool, stripes, cross"),
    ],
)
def test_bad_settings(config, message):
    with pytest.raises(ConfigError, match=message):
        check_disentangle(config)


def test_a_window_needs_its_grid(module):
    module.tokens = "window"
    with pytest.raises(ConfigError, match="do not hold a grid"):
        module(torch.randn(B, L, D))


@pytest.mark.parametrize(("rows", "stripes"), [(6, 3), (5, 5), (7, 3), (8, 6)])
def test_stripes_are_the_bands_of_adaptive_pooling(rows, stripes):
    columns, prefix = 3, 2
    x = torch.randn(B, prefix + rows * columns, D)
    images = x[:, prefix:].reshape(B, rows, columns, D).permute(0, 3, 1, 2)
    expected = nn.functional.adaptive_avg_pool2d(images, (stripes, 1))  # [B, D, stripes, 1]
    torch.testing.assert_close(stripe_means(x, rows, columns, stripes), expected[..., 0].transpose(1, 2).flatten(1))


def naive(module, x, rows, columns):
    """The module as the words of its arguments say, one branch after the other."""
    features = []
    for name in ("id", "cloth"):
        linear = getattr(module, f"{name}_linear")(x)
        attended = getattr(module, f"{name}_attn")(linear, linear, linear)[0]
        features.append(getattr(module, f"{name}_norm")(attended + x))
    pooled = []
    for name, own, other in (("id", *features), ("cloth", *features[::-1])):
        if module.cross != "none":
            read = other if module.cross == "other" else own
            crossed = getattr(module, f"{name}_cross_attn")(own, read, read)[0]
            own = getattr(module, f"{name}_cross_norm")(crossed + own)
        if module.pool == "mean":
            pooled.append(own.mean(dim=1))
        elif module.pool == "stripes":
            patches = own[:, -rows * columns :].reshape(len(x), module.stripes, rows // module.stripes, columns, D)
            pooled.append(getattr(module, f"{name}_pool")(patches.mean(dim=(2, 3)).flatten(1)))
        else:
            pool = getattr(module, f"{name}_pool")
            pooled.append(torch.cat([pool.attn(pool.query[0], each, each)[0] for each in own]))
    gate = module.gate(torch.cat(pooled, dim=1))
    return gate * pooled[0], (1 - gate) * pooled[1], gate


@pytest.mark.parametrize("cross", CROSSES)
@pytest.mark.parametrize("pool", POOLS)
def test_pools_and_crosses_equal_a_naive_module(make, pool, cross):
    torch.manual_seed(0)
    plain = DisentangleModule(D)
    torch.manual_seed(0)
    module = DisentangleModule(D, pool=pool, stripes=2, cross=cross)
    if cross == "other":  # the layers of the specification start as they do without the others
        for name, value in plain.state_dict().items():
            assert torch.equal(module.state_dict()[name], value), name
    names = {name.split(".")[0] for name in module.state_dict()} ^ {name.split(".")[0] for name in plain.state_dict()}
    extra = set() if pool == "mean" else {"id_pool", "cloth_pool"}
    missing = {f"{a}_cross_{b}" for a in ("id", "cloth") for b in ("attn", "norm")} if cross == "none" else set()
    assert names == extra | missing
    make.stir(module)
    x = torch.randn(B, 1 + 4 * 3, D)
    for actual, expected in zip(module(x, (4, 3)), naive(module, x, 4, 3)):
        torch.testing.assert_close(actual, expected)
    sum(out.sum() for out in module(x, (4, 3))).backward()
    assert all(p.grad is not None for p in module.parameters())
    for weights in module.attention_weights(x, (4, 3)):
        torch.testing.assert_close(weights.sum(-1), torch.ones(B, 4, 13))


def test_stripes_need_as_many_rows(module):
    striped = DisentangleModule(D, pool="stripes", stripes=3)
    with pytest.raises(ConfigError, match="stripes: 3 is more than the image's 2 rows"):
        striped(torch.randn(B, 7, D), (2, 3))
    with pytest.raises(ConfigError, match="'all' with pool 'stripes': 5 tokens do not hold a grid of None"):
        striped(torch.randn(B, 5, D))
    check_rows({"pool": "stripes"}, 6)
    check_rows({}, 1)
