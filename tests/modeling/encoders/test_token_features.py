import pytest
import torch
from transformers import AutoConfig, AutoModel

from t2ireid_plugin.modeling.encoders import token_features as words
from t2ireid_plugin.modeling.encoders.token_features import TEXTS_AT_ONCE, word_features

WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
FAMILIES = {
    "bert": WIDTH,
    "roberta": {**WIDTH, "pad_token_id": 1},
    "electra": {**WIDTH, "embedding_size": 16},
    "clip_text_model": WIDTH,
}


def encoder(family="bert", implementation="sdpa"):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=40, **FAMILIES[family])
    return AutoModel.from_config(config, attn_implementation=implementation).eval()


def texts(number):
    """Ids of texts of 1 to 9 tokens, sorted by length."""
    generator = torch.Generator().manual_seed(1)
    lengths = sorted(1 + int(i) % 9 for i in torch.randint(9, (number,), generator=generator))
    return [tuple(torch.randint(3, 40, (n,), generator=generator).tolist()) for n in lengths]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", [1, 2, 7, TEXTS_AT_ONCE + 5])
def test_equals_each_text_alone(family, implementation, number):
    model, ids = encoder(family, implementation), texts(number)
    with torch.no_grad():
        found = word_features(model, ids, pad=1)
        expected = torch.cat([model(input_ids=torch.tensor([text])).last_hidden_state[0] for text in ids])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_bert_reads_texts_side_by_side(monkeypatch):
    """And one that refuses masks of pairs reads a text a row, with the same result."""
    model, ids = encoder(), texts(20)
    shapes = []
    model.embeddings.register_forward_hook(lambda module, args, output: shapes.append(output.shape[:2]))
    with torch.no_grad():
        packed = word_features(model, ids, pad=0)
        monkeypatch.setattr(words, "_takes_mask_of_pairs", lambda *_: False)
        single = word_features(model, ids, pad=0)
    assert shapes[0] == (1, sum(map(len, ids)))
    assert sum(rows for rows, _ in shapes[1:]) == 20
    torch.testing.assert_close(packed, single, rtol=0, atol=1e-5)


def test_the_library_at_hand_takes_masks_of_pairs():
    before = torch.get_rng_state()
    words._takes_mask_of_pairs.cache_clear()
    assert words._takes_mask_of_pairs("bert", "sdpa")
    assert torch.equal(torch.get_rng_state(), before)  # the trial draws its weights aside


def test_a_library_that_refuses_them_is_noticed(monkeypatch):
    words._takes_mask_of_pairs.cache_clear()

    def refuse(self, *args, **kwargs):
        if kwargs.get("attention_mask") is not None and kwargs["attention_mask"].dim() > 2:
            raise ValueError("Wrong shape for attention_mask")
        return forward(self, *args, **kwargs)

    bert = type(encoder())
    forward = bert.forward
    monkeypatch.setattr(bert, "forward", refuse)
    assert not words._takes_mask_of_pairs("bert", "sdpa")
    with torch.no_grad():
        assert word_features(encoder(), texts(5), pad=0).shape == (sum(map(len, texts(5))), 16)
    words._takes_mask_of_pairs.cache_clear()


def test_gradients_pass_through():
    model, ids = encoder(), texts(6)
    word_features(model, ids, pad=0).square().sum().backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sum(model(input_ids=torch.tensor([text])).last_hidden_state.square().sum() for text in ids).backward()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, rtol=1e-4, atol=1e-5, msg=name)
