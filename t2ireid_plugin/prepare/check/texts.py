"""Checks the captions of a dataset, by themselves and for the tokenizer that will read them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.modeling.encoders.loading import TEXT_KEY, build_tokenizer, encoder_config
from t2ireid_plugin.modeling.encoders.tokenizer import (
    MANY,
    TokenCounts,
    TokenizedText,
    count_tokens,
    describe_words,
    learn_wordpiece,
    tokenize,
)
from t2ireid_plugin.prepare.check.report import ERROR, WARNING, Example, Findings, list_some, shorten
from t2ireid_plugin.prepare.check.rows import Row
from t2ireid_plugin.utils.text import CJK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS_LISTED = 8
_OTHER_LANGUAGE = 0.5  # with a larger share of unknown tokens the tokenizer is for another language
# A Chinese character counts as much as a word of a language with spaces: 他穿着Adidas is Chinese.
_WORD = re.compile(rf"[{CJK}]|[^\W\d_{CJK}]+")


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained text encoder, a folder or a hub id, without the encoder's weights.

    Raises:
        EncoderError: when it cannot be loaded or does not fit its encoder.
    """
    vocab_size = getattr(encoder_config(source, TEXT_KEY), "vocab_size", None)
    if vocab_size is None:
        raise EncoderError(f"--tokenizer: '{source}' is not a text encoder; name one as in model.bert_base_path")
    return build_tokenizer(source, vocab_size)


def learn_tokenizer(rows: Sequence[Row]) -> PreTrainedTokenizerBase | None:
    """The tokenizer that training learns from its texts; without a training split from all texts; None without any."""
    for selected in ([row for row in rows if row.split == "train"], rows):
        texts = {text for row in selected for text in (*row.captions, *row.other_texts)}
        if texts:
            return learn_wordpiece(texts)
    return None


def check_repeated(rows: Sequence[Row], findings: Findings) -> None:
    """Reports equal captions within a row and across identities, ignoring case and white space."""
    owners: dict[str, dict[int, Row]] = {}
    for row in rows:
        texts = [" ".join(caption.lower().split()) for caption in row.captions]
        repeated = [caption for i, caption in enumerate(row.captions) if texts[i] in texts[:i]]
        findings.add("caption_twice_in_row", [Example(row.number, row.path or "", shorten(t)) for t in repeated[:1]])
        for text in texts:
            if row.pid is not None:
                owners.setdefault(text, {}).setdefault(row.pid, row)
    shared = sorted((item for item in owners.items() if len(item[1]) > 1), key=lambda item: -len(item[1]))
    for text, rows_of in shared:
        first, pids = next(iter(rows_of.values())), list_some(sorted(rows_of))
        example = Example(first.number, first.path or "", f"identities {pids}: {shorten(text)}")
        findings.add("caption_of_two_identities", [example])


def check_scripts(rows: Sequence[Row], findings: Findings) -> None:
    """Reports captions whose words are mostly in another script than those of most captions."""
    captions = [(row, caption, _script(caption)) for row in rows for caption in row.captions]
    usual = Counter(script for _, _, script in captions if script).most_common(1)
    others = [(row, caption, script) for row, caption, script in captions if script and script != usual[0][0]]
    examples = [Example(row.number, row.path or "", f"{script}: {shorten(text)}") for row, text, script in others]
    findings.add("caption_other_script", examples, note=f"most captions are {usual[0][0]}" if others else "")


def _script(caption: str) -> str:
    """The script of most words, as the Unicode names of their letters begin; kana count as CJK; empty without words."""
    letters = (word[0] for word in _WORD.findall(caption))
    names = ("CJK" if "\u3040" <= a <= "\u9fff" else unicodedata.name(a, "UNKNOWN").split()[0] for a in letters)
    scripts = Counter(names)
    return max(scripts, key=scripts.__getitem__, default="")


def check_tokens(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase | None, max_length: int, findings: Findings
) -> TokenCounts:
    """Reports captions that the model would truncate, and captions with unknown tokens."""
    if tokenizer is None:
        return TokenCounts()
    captions = [(row, caption) for row in rows for caption in row.captions]
    texts = list(zip((row for row, _ in captions), tokenize(tokenizer, [caption for _, caption in captions])))
    counts = count_tokens([text for _, text in texts], max_length)
    cut = sorted((pair for pair in texts if pair[1].length > max_length), key=lambda pair: -pair[1].length)
    findings.add(
        "caption_cut",
        [_example(row, text, f"{text.length} tokens") for row, text in cut],
        note=counts.describe_cut(max_length),
        severity=WARNING if len(cut) > MANY * counts.captions else None,
    )
    unknown = [pair for pair in texts if pair[1].unknown]
    unknown.sort(key=lambda pair: -len(pair[1].unknown) / pair[1].tokens)
    words = [word for _, text in unknown for word in text.unknown]
    note = describe_words(words, counts.tokens, "tokens are unknown", _WORDS_LISTED)
    other_language = len(words) > _OTHER_LANGUAGE * counts.tokens
    findings.add(
        "caption_unknown_tokens",
        [_example(row, text, f"{len(text.unknown)} of {text.tokens}") for row, text in unknown],
        note=note + "; this tokenizer is for another language" * other_language,
        severity=ERROR if other_language else WARNING if len(words) > MANY * counts.tokens else None,
    )
    return counts


def _example(row: Row, text: TokenizedText, value: str) -> Example:
    return Example(row.number, row.path or "", f"{value}: {shorten(text.text)}")
