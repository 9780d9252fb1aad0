"""What is wrong with the captions of a dataset, by themselves and for the tokenizer that will read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.modeling.encoders.loading import TEXT_KEY, build_tokenizer, check_source
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.prepare.check.findings import ERROR, MANY_CUT, MOSTLY, WARNING, Example, Findings
from t2ireid_plugin.prepare.check.rows import Row, shown
from t2ireid_plugin.utils.safe_io import is_unicode
from t2ireid_plugin.utils.text import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1000
_WORDS_SHOWN = 8


class TokenCounts(NamedTuple):
    """What a tokenizer makes of all captions together."""

    captions: int = 0
    tokens: int = 0  # without special ones
    longest: int = 0  # tokens of the longest caption, special ones included
    cut_captions: int = 0
    lost_tokens: int = 0
    unknown_tokens: int = 0


class _Read(NamedTuple):
    """One caption as the tokenizer reads it."""

    row: Row
    caption: str
    length: int  # special tokens included
    tokens: int  # without them
    unknown: int


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained text encoder, a folder or a hub id; the encoder's weights are not needed.

    Raises:
        EncoderError: when it cannot be had or does not belong to its encoder.
    """
    from transformers import AutoConfig

    check_source(source, TEXT_KEY)
    try:
        try:
            config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        except OSError:  # neither a folder nor in the cache
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        vocab_size = config.vocab_size
    except Exception as error:  # damaged files raise anything, as in `encoders`
        reason = first_line(error)
        raise EncoderError(f"'{source}' holds no text encoder's configuration: {reason}") from error
    return build_tokenizer(source, vocab_size)


def learn_tokenizer(rows: Sequence[Row]) -> PreTrainedTokenizerBase | None:
    """The tokenizer that training would learn from its texts; from all texts without a training split; else None."""
    for chosen in ([row for row in rows if row.split == "train"], rows):
        texts = {text for row in chosen for text in (*row.captions, *row.other_texts) if is_unicode(text)}
        if texts:
            return learn_wordpiece(texts)
    return None


def check_repeated(rows: Sequence[Row], findings: Findings) -> None:
    """Captions that a row has twice, and captions that several identities have; letter case and blanks aside."""
    owners: dict[str, dict[int, Row]] = {}
    for row in rows:
        texts = [" ".join(caption.lower().split()) for caption in row.captions]
        twice = [row.captions[i] for i, text in enumerate(texts) if text in texts[:i]]
        findings.add("caption_twice_in_row", [Example(row.number, row.path or "", shown(text)) for text in twice[:1]])
        for text in texts:
            if row.pid is not None:
                owners.setdefault(text, {}).setdefault(row.pid, row)
    shared = sorted(((text, who) for text, who in owners.items() if len(who) > 1), key=lambda item: -len(item[1]))
    findings.add("caption_of_two_identities", [_shared_caption(text, who) for text, who in shared])


def check_tokens(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, findings: Findings
) -> TokenCounts:
    """Captions that the model would not read to the end, and those with tokens that it does not know."""
    words: Counter[str] = Counter()
    read = list(_tokenize(rows, tokenizer, words))
    cut = sorted((item for item in read if item.length > max_length), key=lambda item: -item.length)
    unknown = sorted((item for item in read if item.unknown), key=lambda item: -item.unknown / item.tokens)
    mostly = [item for item in unknown if item.unknown > MOSTLY * item.tokens]
    counts = TokenCounts(
        captions=len(read),
        tokens=sum(item.tokens for item in read),
        longest=max((item.length for item in read), default=0),
        cut_captions=len(cut),
        lost_tokens=sum(item.length - max_length for item in cut),
        unknown_tokens=sum(item.unknown for item in unknown),
    )
    findings.add(
        "caption_cut",
        [_example(item, f"{item.length} tokens") for item in cut],
        note=f"{_share(len(cut), counts.captions)} of captions are cut at {max_length} tokens, "
        f"{_share(counts.lost_tokens, counts.tokens)} of all tokens are lost",
        severity=WARNING if len(cut) > MANY_CUT * counts.captions else None,
    )
    frequent = ", ".join(f"{shown(word)} ({count:,} times)" for word, count in words.most_common(_WORDS_SHOWN))
    findings.add(
        "caption_unknown_tokens",
        [_example(item, f"{item.unknown} of {item.tokens}") for item in unknown],
        note=f"{_share(counts.unknown_tokens, counts.tokens)} of all tokens are unknown"
        + (f": {frequent}" if frequent else ""),
    )
    findings.add(
        "caption_mostly_unknown",
        [_example(item, f"{item.unknown} of {item.tokens}") for item in mostly],
        note=f"{_share(len(mostly), counts.captions)} of captions"
        + ("; this tokenizer is for another language" if len(mostly) > MOSTLY * counts.captions else ""),
        severity=ERROR if len(mostly) > MOSTLY * counts.captions else None,
    )
    return counts


def _tokenize(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, words: Counter[str]) -> Iterator[_Read]:
    """Each caption's numbers; unknown words are counted in ``words``, where the tokenizer can tell them."""
    captions = [(row, caption) for row in rows for caption in row.captions]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for start in range(0, len(captions), _BATCH):
        batch = captions[start : start + _BATCH]
        encoded = tokenizer([caption for _, caption in batch], truncation=False, verbose=False)
        for i, ((row, caption), ids) in enumerate(zip(batch, encoded["input_ids"], strict=True)):
            unknown = [] if tokenizer.unk_token_id is None else _positions(ids, tokenizer.unk_token_id)
            if unknown and tokenizer.is_fast:
                offsets = encoded.encodings[i].offsets
                words.update(caption[slice(*offsets[position])] for position in unknown)
            yield _Read(row, caption, len(ids), sum(token not in special for token in ids), len(unknown))


def _positions(ids: Sequence[int], wanted: int) -> list[int]:
    return [position for position, token in enumerate(ids) if token == wanted]


def _example(item: _Read, what: str) -> Example:
    return Example(item.row.number, item.row.path or "", f"{what}: {shown(item.caption)}")


def _shared_caption(text: str, who: dict[int, Row]) -> Example:
    first, *_ = who.values()
    listed = ", ".join(map(str, sorted(who)[:4])) + (f" and {len(who) - 4} more" if len(who) > 4 else "")
    return Example(first.number, first.path or "", f"identities {listed}: {shown(text)}")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.2f} %"
