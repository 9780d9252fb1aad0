import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.modeling.encoders.loading import build_tokenizer
from t2ireid_plugin.modeling.encoders.tokenizer import (
    SPECIAL_TOKENS,
    CachedTokenizer,
    ignore_marks,
    learn_wordpiece,
    mask_word,
    tokenize,
    tokenizer_from_json,
    tokenizer_to_json,
    whole_words,
)

LENGTH = 16


class Counting:
    """A tokenizer that records the texts it was called with."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.texts = []

    def __call__(self, texts, **options):
        self.texts.extend(texts)
        return self._tokenizer(texts, **options)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


@pytest.fixture(scope="module")
def tokenizer(captions):
    return learn_wordpiece(captions)


@pytest.fixture
def counting(tokenizer):
    return Counting(tokenizer)


def direct(tokenizer, texts, length=LENGTH):
    """The specification's call of the tokenizer."""
    encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.int64
        assert torch.equal(a, e)


@settings(deadline=None, max_examples=30)
@given(batches=st.lists(st.lists(st.text(max_size=40), min_size=1, max_size=4), min_size=1, max_size=4))
def test_equals_the_tokenizer_itself_on_any_text(tokenizer, batches):
    cache = CachedTokenizer(tokenizer, LENGTH, capacity=3)
    for batch in [["red coat boy bag " * 30], *batches, *batches]:  # the first is truncated
        assert_same(cache(batch), direct(tokenizer, batch))


def test_a_string_is_tokenized_once_whatever_the_batch(counting):
    cache = CachedTokenizer(counting, LENGTH)
    for batch in (["a red coat", "a white dress"], ["a white dress", "a tall boy"], ["a tall boy", "a tall boy"]):
        cache(batch)
    assert counting.texts == ["a red coat", "a white dress", "a tall boy"]


def test_the_oldest_string_is_dropped(counting):
    cache = CachedTokenizer(counting, LENGTH, capacity=2)
    for text in ("one", "two", "three", "three", "two", "one"):
        cache([text])
    assert counting.texts == ["one", "two", "three", "one"]


def test_the_cache_holds_ids_without_padding_and_is_not_shared_with_results(tokenizer):
    cache = CachedTokenizer(tokenizer, LENGTH)
    ids, mask = cache(["a red coat"])
    assert list(cache._ids.values()) == cache.ids(["a red coat"]) == [tuple(ids[0, : mask.sum()].tolist())]
    ids.fill_(99)
    mask.fill_(99)
    assert_same(cache(["a red coat"]), direct(tokenizer, ["a red coat"]))


def test_the_padding_id_is_the_tokenizers():
    """It is not 0 in every vocabulary (RoBERTa's is 1)."""
    learned = learn_wordpiece(["a red coat", "a red dress"])
    learned.pad_token = "red"
    ids, mask = CachedTokenizer(learned, LENGTH)(["a coat"])
    assert (ids[mask == 0] == learned.convert_tokens_to_ids("red")).all()
    assert (mask == 0).any()


def test_mostly_unknown_texts_warn_once(tokenizer, caplog):
    cache = CachedTokenizer(tokenizer, LENGTH)
    with caplog.at_level(logging.WARNING):
        cache(["a young man wearing a red coat", "a 红"])  # one of two is not most
        assert not caplog.records
        cache(["一个穿红色夹克的年轻男子", "戴眼镜的女子"])
        cache(["白色衬衫"])
    assert len(caplog.records) == 1
    assert "一个穿红色夹克的年轻男子" in caplog.text
    assert "bert-base-chinese" in caplog.text


def test_learned_vocabulary(tokenizer, captions):
    """Lower case, `[CLS] … [SEP]`, no unknown tokens in its own captions, and not larger than requested."""
    ids = tokenizer(captions[0])["input_ids"]
    assert ids == tokenizer(captions[0].upper())["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ,", ",").replace(" .", ".") == captions[0].lower()
    assert tokenizer.unk_token_id not in {i for text in captions for i in tokenizer(text)["input_ids"]}
    assert len(learn_wordpiece(captions, vocab_size=60)) == 60
    assert len(tokenizer) > 60


def test_the_order_of_captions_does_not_change_the_vocabulary(captions):
    expected = tokenizer_to_json(learn_wordpiece(captions))
    assert tokenizer_to_json(learn_wordpiece(captions[::-1])) == expected
    assert tokenizer_to_json(learn_wordpiece(captions + captions[:9])) == expected
    assert tokenizer_to_json(learn_wordpiece(iter(captions))) == expected


def test_more_letters_than_fit_into_the_vocabulary():
    """The rarest are left out, ties by code point: Chinese captions have thousands of characters."""
    letters = [chr(0x4E00 + i) for i in range(1500)]
    texts = ["".join(letters[i : i + 50]) for i in range(0, 1500, 50)]
    frequent = "".join(letters[-10:])
    vocabularies = [learn_wordpiece([*texts, frequent]).get_vocab() for _ in range(2)]
    assert vocabularies[0] == vocabularies[1]
    known = set(vocabularies[0])
    assert known.issuperset(letters[:990])
    assert known.issuperset(frequent)
    assert known.isdisjoint(letters[990:-10])


SCRIPT = """
import sys
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece, tokenizer_to_json
sys.stdout.write(tokenizer_to_json(learn_wordpiece(set(sys.stdin.read().splitlines()))))
"""


@pytest.mark.slow
def test_every_process_learns_the_same_vocabulary(captions):
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        input="\n".join(captions),
        env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert finished.stdout == tokenizer_to_json(learn_wordpiece(captions))


@settings(deadline=None, max_examples=20)
@given(text=st.text(max_size=60))
def test_json_and_back(tokenizer, text):
    again = tokenizer_from_json(tokenizer_to_json(tokenizer))
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert_same(CachedTokenizer(again, LENGTH)([text]), direct(tokenizer, [text]))


def test_no_captions_to_learn_from():
    with pytest.raises(DataError, match="no captions"):
        learn_wordpiece([])


# Captions that the model cannot read as they are


def warnings_of(tokenizer, texts, caplog, length=64):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        CachedTokenizer(tokenizer, length).check(texts)
    return caplog.messages


def folder_with(path, words, **settings):
    """The tokenizer of a folder with a configuration and a vocab.txt, and settings only if there are any."""
    vocabulary = list(dict.fromkeys([*SPECIAL_TOKENS.values(), *words]))
    BertConfig(vocab_size=len(vocabulary)).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if settings:
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return build_tokenizer(str(path), len(vocabulary))


def test_more_than_one_percent_of_captions_truncated(tokenizer, caplog):
    captions, long = ["a red coat"] * 98, "a red coat " * 10
    assert warnings_of(tokenizer, [*captions, long], caplog, length=12) == [
        "1.01 % of captions are truncated to 12 tokens, 6.17 % of all tokens are lost; raise model.max_length if the "
        "text encoder reads more"
    ]
    assert warnings_of(tokenizer, [*captions, long], caplog, length=32) == []
    assert warnings_of(tokenizer, [*captions, *captions, long], caplog, length=12) == []  # 1 of 197
    assert warnings_of(tokenizer, [], caplog) == []


LETTERS = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
UNCASED = "the a he man woman in coat waits with bag , ."
CASED = ["The man in a Nike coat, he waits.", "A woman with a Puma bag.", "The woman waits."]
UNKNOWN = "% of all tokens are words that the tokenizer does not know as written: The (2 times), Nike (1 times), A"


def test_a_cased_vocabulary_without_settings(tmp_path, caplog):
    """BERT's tokenizer then reads lower case: "Nike" becomes n, ##i, ##k, ##e."""
    words = [*LETTERS, *f"{UNCASED} The A Nike Puma".split()]
    (message,) = warnings_of(folder_with(tmp_path, words), CASED, caplog)
    # The, Nike, A, Puma, The: 5 of 27 tokens, as Nike and Puma are 4 letters each.
    assert message.startswith(f"18.52 {UNKNOWN}")
    assert "do_lower_case" in message
    assert warnings_of(folder_with(tmp_path, words, do_lower_case=False), CASED, caplog) == []


def test_an_uncased_vocabulary_read_with_capitals(tmp_path, caplog):
    words = [*LETTERS, *UNCASED.split()]
    (message,) = warnings_of(folder_with(tmp_path, words, do_lower_case=False), CASED, caplog)
    # The, Nike, A, Puma, The: 5 of 10 + 7 + 4 words and marks.
    assert message.startswith(f"23.81 {UNKNOWN}")
    assert warnings_of(folder_with(tmp_path, words, do_lower_case=True), CASED, caplog) == []


def test_unknown_words_are_reported_once_and_escaped(tokenizer, caplog):
    texts = ["一个穿红色夹克的男子", "a \x9bcoat 😀 a boy"]
    with caplog.at_level(logging.WARNING):
        cache = CachedTokenizer(tokenizer, 64)
        cache.check(texts)
        cache(texts)
    (message,) = caplog.messages
    assert "个 (1 times)" in message
    assert "model.bert_base_path" in message
    assert message.isprintable()


def test_a_sample_of_many_captions(tokenizer, caplog):
    (message,) = warnings_of(tokenizer, ["a coat", "a red coat " * 10] * 6000, caplog, length=20)
    assert message.startswith("50.00 % of captions are truncated to 20 tokens, ")
    assert "(of 4,000 of the 12,000 captions)" in message


def test_nothing_is_unknown_to_clip(clip, caplog):
    """Its token for unknown words is the one that ends every text."""
    tokenizer = AutoTokenizer.from_pretrained(str(clip))
    assert tokenizer.unk_token_id in tokenizer("一 😀 coat")["input_ids"]
    assert [text.unknown for text in tokenize(tokenizer, ["一 😀 coat", "a Coat"])] == [[], []]
    assert warnings_of(tokenizer, ["一 😀 coat", "A Coat"], caplog) == []


def test_a_whole_word_is_one_token(clip):
    """For CLIP, which has no mask token, the last one masks words, as in IRRA's code."""
    tokenizer = AutoTokenizer.from_pretrained(str(clip))
    words = whole_words(tokenizer)
    assert all(len(ids) == 3 for ids in tokenizer([word for word in words if word.isascii()]).input_ids)
    assert mask_word(tokenizer) == words[-1]
    assert tokenizer(words[-1]).input_ids[1] == max(
        id_ for word, id_ in tokenizer.get_vocab().items() if word.endswith("</w>")
    )
    learned = learn_wordpiece(["a man", "a woman"])
    assert mask_word(learned) == "[MASK]"
    assert {"a", "m"} <= set(whole_words(learned)) < set(learned.get_vocab())


@pytest.mark.parametrize("marks", ['.!"()*#:;~', "]^-"])
def test_ignored_marks_are_read_as_spaces_and_stored(clip, marks):
    plain, ignoring = (AutoTokenizer.from_pretrained(str(clip)) for _ in range(2))
    ignore_marks(ignoring, marks)
    stored = tokenizer_from_json(tokenizer_to_json(ignoring))
    for text in ('A man (tall) in "red"; no. 3: a ~bag!', "a [red]-blue coat ^"):
        expected = plain("".join(" " if letter in marks else letter for letter in text)).input_ids
        assert ignoring(text).input_ids == stored(text).input_ids == expected
