import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.encoders.tokenizer import CachedTokenizer, learn_wordpiece
from t2ireid_plugin.modeling.masking import hide_words

WORDS = ["a", "tall", "man", "with", "short", "black", "hair", "wears", "a", "red", "coat", "and", "blue", "trousers"]
TOKENIZER = learn_wordpiece([" ".join(WORDS)] * 3, 200)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9), min_size=1, max_size=5),
       share=st.floats(0, 1), seed=st.integers(0, 99))  # fmt: skip
def test_only_words_are_hidden_and_each_text_hides_one(texts, share, seed):
    torch.manual_seed(seed)
    input_ids, mask = CachedTokenizer(TOKENIZER, max_length=12)([" ".join(text) for text in texts])
    before = input_ids.clone()
    masked, hidden = hide_words(input_ids, TOKENIZER, share)
    assert torch.equal(input_ids, before)
    special = set(TOKENIZER.all_special_ids)
    for row in range(len(texts)):
        assert (hidden[row] >= 0).any()
        for place in range(input_ids.shape[1]):
            was, now, target = (int(part[row, place]) for part in (input_ids, masked, hidden))
            if target < 0:
                assert now == was
            else:
                assert target == was
                assert was not in special
                assert mask[row, place]


def test_shares_are_those_of_bert():
    """Within 5 standard deviations of a binomial count."""
    torch.manual_seed(0)
    words = [i for i in range(len(TOKENIZER)) if i not in TOKENIZER.all_special_ids]
    input_ids = torch.tensor(words)[torch.randint(len(words), (200, 500))]
    masked, hidden = hide_words(input_ids, TOKENIZER, 0.15)
    targets = hidden >= 0

    def near(count, share, of):
        return abs(int(count) - share * of) < 5 * (share * (1 - share) * of) ** 0.5

    total = int(targets.sum())
    assert near(total, 0.15, input_ids.numel())
    assert near((targets & (masked == TOKENIZER.mask_token_id)).sum(), 0.8 + 0.1 / len(TOKENIZER), total)
    assert near((targets & (masked == input_ids)).sum(), 0.1 + 0.1 / len(TOKENIZER), total)


def test_clips_start_token_stands_for_a_word():
    tokenizer = learn_wordpiece([" ".join(WORDS)] * 3, 200)
    tokenizer.mask_token, tokenizer.bos_token = None, "[CLS]"
    input_ids, _ = CachedTokenizer(tokenizer, max_length=12)(["a tall man"] * 50)
    masked, hidden = hide_words(input_ids, tokenizer, share=1.0)
    assert (masked[hidden >= 0] == tokenizer.cls_token_id).float().mean() > 0.5
    tokenizer.bos_token = None
    with pytest.raises(ConfigError, match="mlm"):
        hide_words(input_ids, tokenizer)
