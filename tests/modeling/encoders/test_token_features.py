import pytest
import torch
from transformers import AutoConfig, AutoModel

from t2ireid_plugin.modeling.encoders import token_features
from t2ireid_plugin.modeling.encoders.token_features import TEXTS_AT_ONCE, encode_texts

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
def test_equals_each_text_alone(family, implementation):
    model = encoder(family, implementation)
    for number in (1, 2, 7, TEXTS_AT_ONCE + 5):
        ids = texts(number)
        with torch.no_grad():
            actual = encode_texts(model, ids, pad=1)
            expected = torch.cat([model(input_ids=torch.tensor([text])).last_hidden_state[0] for text in ids])
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_bert_reads_several_texts_per_row_where_masks_of_pairs_are_supported(monkeypatch):
    model, ids = encoder(), texts(20)
    shapes = []
    model.embeddings.register_forward_hook(lambda module, args, output: shapes.append(output.shape[:2]))
    with torch.no_grad():
        packed = encode_texts(model, ids, pad=0)
        monkeypatch.setattr(token_features, "can_pack", lambda config: False)
        padded = encode_texts(model, ids, pad=0)
    assert shapes == [(1, sum(map(len, ids))), (20, len(ids[-1]))]
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)


def test_transformers_4_gets_one_text_per_row(monkeypatch):
    """It takes no mask for each pair of tokens."""
    assert token_features.can_pack(encoder().config)
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    assert not token_features.can_pack(encoder().config)


def test_gradients_equal_those_of_each_text_alone():
    model, ids = encoder(), texts(6)
    encode_texts(model, ids, pad=0).square().sum().backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sum(model(input_ids=torch.tensor([text])).last_hidden_state.square().sum() for text in ids).backward()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, rtol=1e-4, atol=1e-5, msg=name)
