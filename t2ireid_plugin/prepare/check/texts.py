"""Checks the captions of a dataset, by themselves and for the tokenizer that will read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.modeling.encoders.loading import TEXT_KEY, build_tokenizer, encoder_config
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.prepare.check.report import ERROR, WARNING, Example, Findings, list_some, shorten
from t2ireid_plugin.prepare.check.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1000
_WORDS_LISTED = 8
# Above this share, captions that are too long are more than a few outliers.
_MANY_CUT = 0.05
# A caption with a larger share of unknown tokens carries almost no information; with a larger share of such captions
# the tokenizer is for another language.
_MOSTLY = 0.5


class TokenCounts(NamedTuple):
    """Token counts of all captions."""

    captions: int = 0
    tokens: int = 0  # without special ones
    longest: int = 0  # tokens of the longest caption, including special ones
    cut_captions: int = 0
    lost_tokens: int = 0
    unknown_tokens: int = 0


class _Tokenized(NamedTuple):
    """Token counts of one caption."""

    row: Row
    caption: str
    length: int  # including special tokens
    tokens: int  # without them
    unknown: int

    def example(self, value: str) -> Example:
        return Example(self.row.number, self.row.path or "", f"{value}: {shorten(self.caption)}")


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


def check_tokens(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase | None, max_length: int, findings: Findings
) -> TokenCounts:
    """Reports captions that the model would truncate, and captions with unknown tokens."""
    if tokenizer is None:
        return TokenCounts()
    words: Counter[str] = Counter()
    captions = list(_tokenize(rows, tokenizer, words))
    cut = sorted((item for item in captions if item.length > max_length), key=lambda item: -item.length)
    unknown = sorted((item for item in captions if item.unknown), key=lambda item: -item.unknown / item.tokens)
    mostly = [item for item in unknown if item.unknown > _MOSTLY * item.tokens]
    counts = TokenCounts(
        captions=len(captions),
        tokens=sum(item.tokens for item in captions),
        longest=max((item.length for item in captions), default=0),
        cut_captions=len(cut),
        lost_tokens=sum(item.length - max_length for item in cut),
        unknown_tokens=sum(item.unknown for item in unknown),
    )
    findings.add(
        "caption_cut",
        [item.example(f"{item.length} tokens") for item in cut],
        note=f"{_percent(len(cut), counts.captions)} of captions are truncated to {max_length} tokens, "
        f"{_percent(counts.lost_tokens, counts.tokens)} of all tokens are lost",
        severity=WARNING if len(cut) > _MANY_CUT * counts.captions else None,
    )
    frequent = ", ".join(f"{shorten(word)} ({count:,} times)" for word, count in words.most_common(_WORDS_LISTED))
    findings.add(
        "caption_unknown_tokens",
        [item.example(f"{item.unknown} of {item.tokens}") for item in unknown],
        note=f"{_percent(counts.unknown_tokens, counts.tokens)} of all tokens are unknown"
        + (f": {frequent}" if frequent else ""),
    )
    other_language = len(mostly) > _MOSTLY * counts.captions
    findings.add(
        "caption_mostly_unknown",
        [item.example(f"{item.unknown} of {item.tokens}") for item in mostly],
        note=f"{_percent(len(mostly), counts.captions)} of captions"
        + ("; this tokenizer is for another language" if other_language else ""),
        severity=ERROR if other_language else None,
    )
    return counts


def _tokenize(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, words: Counter[str]) -> Iterator[_Tokenized]:
    """Token counts of each caption; counts unknown words in ``words`` if the tokenizer gives their positions."""
    captions = [(row, caption) for row in rows for caption in row.captions]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for start in range(0, len(captions), _BATCH):
        batch = captions[start : start + _BATCH]
        encoded = tokenizer([caption for _, caption in batch], truncation=False, verbose=False)
        for i, ((row, caption), ids) in enumerate(zip(batch, encoded["input_ids"], strict=True)):
            unknown = [at for at, token in enumerate(ids) if token == tokenizer.unk_token_id]
            if unknown and tokenizer.is_fast:
                offsets = encoded.encodings[i].offsets
                words.update(caption[slice(*offsets[at])] for at in unknown)
            yield _Tokenized(row, caption, len(ids), sum(token not in special for token in ids), len(unknown))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.2f} %"
