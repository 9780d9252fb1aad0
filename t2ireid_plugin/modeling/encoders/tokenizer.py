"""Tokenizes captions with a cache per string, and learns a WordPiece vocabulary from captions."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from t2ireid_plugin.errors import DataError, EncoderError, printable
from t2ireid_plugin.modeling.encoders.repair import OF_CLIP, repair_text
from t2ireid_plugin.utils.safe_io import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# Texts are tokenized in the main process while data workers fork; otherwise the library warns at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SPECIAL_TOKENS = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
ROLES = "special_tokens_map"  # JSON key of the roles of special tokens: padding, end of text, …

# A larger share of truncated captions, or of words that the vocabulary lacks, is more than a few outliers.
MANY = 0.01
_BATCH, _SAMPLE = 1000, 5000
_WORD_END = "</w>"  # of the last token of a word in CLIP's vocabulary


class TokenizedText(NamedTuple):
    """Token counts of a text."""

    text: str
    length: int  # including special tokens
    tokens: int  # without them
    unknown: list[str]  # words that are not in the vocabulary, as written if the tokenizer gives their positions


class TokenCounts(NamedTuple):
    """Token counts of all captions."""

    captions: int = 0
    tokens: int = 0  # without special ones
    longest: int = 0  # tokens of the longest caption, including special ones
    cut_captions: int = 0
    lost_tokens: int = 0
    unknown_tokens: int = 0

    def describe_cut(self, max_length: int) -> str:
        """The shares of truncated captions and of lost tokens."""
        cut, lost = percent(self.cut_captions, self.captions), percent(self.lost_tokens, self.tokens)
        return f"{cut} of captions are truncated to {max_length} tokens, {lost} of all tokens are lost"


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[TokenizedText]:
    """Token counts of each text, without truncation."""
    unknown_id = _unknown_id(tokenizer)
    special = set(tokenizer.all_special_ids) - {unknown_id}
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        encoded = tokenizer(batch, truncation=False, verbose=False)
        for i, (text, ids) in enumerate(zip(batch, encoded["input_ids"], strict=True)):
            at = [place for place, token in enumerate(ids) if token == unknown_id]
            spans = encoded.encodings[i].offsets if at and tokenizer.is_fast else None
            words = [text[slice(*spans[place])] if spans else str(tokenizer.unk_token) for place in at]
            yield TokenizedText(text, len(ids), sum(token not in special for token in ids), words)


def count_tokens(texts: Sequence[TokenizedText], max_length: int) -> TokenCounts:
    """Counts over all texts, of which the model reads ``max_length`` tokens each."""
    lost = [text.length - max_length for text in texts if text.length > max_length]
    return TokenCounts(
        captions=len(texts),
        tokens=sum(text.tokens for text in texts),
        longest=max((text.length for text in texts), default=0),
        cut_captions=len(lost),
        lost_tokens=sum(lost),
        unknown_tokens=sum(len(text.unknown) for text in texts),
    )


def describe_words(words: Iterable[str], total: int, problem: str, listed: int) -> str:
    """The share of ``words`` in ``total``, their ``problem``, and the most frequent of them."""
    counts = Counter(words)
    examples = ", ".join(f"{printable(word[:40])} ({n:,} times)" for word, n in counts.most_common(listed))
    return f"{percent(counts.total(), total)} of all {problem}" + (f": {examples}" if examples else "")


def percent(part: int, whole: int) -> str:
    """A share in percent with two decimals."""
    return f"{100 * part / max(whole, 1):.2f} %"


class CachedTokenizer:
    """Tokenizes texts to a fixed length and caches the ids of each string.

    Captions return every epoch in new batches, so the cache has one entry per string, not per batch. The oldest entries
    are dropped first. Texts for CLIP are repaired before, see `repair_text`.

    Args:
        tokenizer: any Hugging Face tokenizer.
        max_length: tokens that a text is padded or truncated to, special tokens included.
        capacity: number of strings in the cache.
        attends_padding: the mask covers padding too, see `families.attends_padding`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 64,
        capacity: int = 200_000,
        attends_padding: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.capacity = capacity
        self.attends_padding = attends_padding
        self.repairs = _is_clip(tokenizer)
        self._ids: dict[str, tuple[int, ...]] = {}
        self._warned = False

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """``n`` texts to ``input_ids [n, max_length]`` and ``attention_mask [n, max_length]``, both int64."""
        rows = self.ids(texts)
        input_ids = torch.full((len(rows), self.max_length), self.pad)
        attention_mask = torch.zeros_like(input_ids)
        for i, ids in enumerate(rows):
            input_ids[i, : len(ids)] = torch.tensor(ids)
            attention_mask[i, : len(ids)] = 1
        return input_ids, attention_mask

    @property
    def pad(self) -> int:
        """The padding token; any will do for a tokenizer without one, as padding is masked."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of each text, without padding unless the encoder attends to it."""
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if new:
            read = [repair_text(text) for text in new] if self.repairs else new
            encoded = self.tokenizer(read, truncation=True, max_length=self.max_length)["input_ids"]
            unknown = [text for text, ids in zip(new, encoded) if 2 * ids.count(_unknown_id(self.tokenizer)) > len(ids)]
            if unknown and not self._warned:
                self._warned = True  # once is enough: the whole dataset would repeat it
                logger.warning(
                    "most of this text is unknown to the tokenizer: %r; choose a text encoder for its language, "
                    "e.g. model.bert_base_path bert-base-chinese for Chinese.",
                    unknown[0],
                )
            fill = (self.pad,) * self.max_length if self.attends_padding else ()
            self._ids.update((text, (*ids, *fill[len(ids) :])) for text, ids in zip(new, encoded))
        rows = [self._ids[text] for text in texts]
        while len(self._ids) > self.capacity:
            del self._ids[next(iter(self._ids))]
        return rows

    def check(self, captions: Sequence[str]) -> None:
        """Warns of many truncated captions and of a vocabulary that does not suit them; reads 5,000 of them at most."""
        texts = list(tokenize(self.tokenizer, captions[:: -(-len(captions) // _SAMPLE) or 1]))
        counts = count_tokens(texts, self.max_length)
        sampled = f" (of {len(texts):,} of the {len(captions):,} captions)" if len(texts) < len(captions) else ""
        if counts.cut_captions > MANY * counts.captions:
            cut = counts.describe_cut(self.max_length)
            logger.warning("%s%s; raise model.max_length if the text encoder reads more", cut, sampled)
        words = [*(word for text in texts for word in text.unknown), *_lost_capitals(self.tokenizer, texts)]
        if len(words) > MANY * counts.tokens:
            self._warned = True
            logger.warning(
                "%s%s; choose a text encoder for their language as model.bert_base_path (bert-base-chinese for "
                "Chinese), or set do_lower_case in its tokenizer_config.json to suit its vocab.txt",
                describe_words(words, counts.tokens, "tokens are words that the tokenizer does not know as written", 3),
                sampled,
            )


def learn_wordpiece(captions: Iterable[str], vocab_size: int = 2000) -> PreTrainedTokenizerFast:
    """A lower-casing BERT tokenizer whose vocabulary is learned from ``captions``, the same one every time.

    Raises:
        DataError: for no captions.
    """
    # Sorted and unique: the vocabulary must not depend on the order of the annotation file.
    corpus = sorted(set(captions))
    if not corpus:
        raise DataError("no captions to learn a vocabulary from: the training split is empty")
    letters, inner = _alphabet(corpus)
    learner = BertWordPieceTokenizer(lowercase=True)
    # The library numbers the inner letters in the random order of a hash table and breaks ties by these numbers. As
    # special tokens they get fixed numbers; in the tokenizer built below they are ordinary tokens.
    learner.train_from_iterator(
        corpus,
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*SPECIAL_TOKENS.values(), *inner],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
    )
    vocabulary = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    learned = BertWordPieceTokenizer(dict(vocabulary), lowercase=True)
    return tokenizer_from_json(learned.to_str())


def mask_word(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What stands for a hidden word in a text: the mask token, or CLIP's last word, as in IRRA's and RDE's code."""
    if tokenizer.mask_token is not None:
        return str(tokenizer.mask_token)
    words = whole_words(tokenizer)
    return words[-1] if _is_clip(tokenizer) and words else None


def whole_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that are words on their own, in the order of their ids."""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    end = _WORD_END if _is_clip(tokenizer) else ""
    return [token.removesuffix(end) for token, _ in tokens if token.endswith(end) and token.removesuffix(end).isalnum()]


def _is_clip(tokenizer: PreTrainedTokenizerBase) -> bool:
    return OF_CLIP in tokenizer.get_vocab()


def ignore_marks(tokenizer: PreTrainedTokenizerBase, marks: str) -> None:
    """Makes a tokenizer read these characters as spaces, also after it was stored in a checkpoint.

    Raises:
        EncoderError: for a tokenizer that has no JSON form.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(f"model.ignored_marks: a {type(tokenizer).__name__} cannot ignore characters; set it to ''")
    steps = [normalizers.Replace(Regex(f"[{re.escape(marks)}]"), " "), backend.normalizer]
    backend.normalizer = normalizers.Sequence([step for step in steps if step is not None])


def tokenizer_to_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """The whole tokenizer as one JSON string, for storing in a checkpoint.

    Raises:
        EncoderError: for a tokenizer that has no JSON form, such as SentencePiece's.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(f"a {type(tokenizer).__name__} cannot be stored as JSON; keep its folder")
    # The backend knows which tokens are special, but not their roles.
    return json.dumps({**json.loads(backend.to_str()), ROLES: tokenizer.special_tokens_map}, ensure_ascii=False)


def tokenizer_from_json(text: str) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer_to_json` wrote; if the roles of special tokens are missing, BERT's apply.

    Raises:
        EncoderError: for anything else, such as the content of a foreign checkpoint.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        content = parse_json(text)
        roles = content.pop(ROLES, SPECIAL_TOKENS)
        backend = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    except Exception as error:  # the library raises bare Exception
        raise EncoderError(f"the tokenizer stored in the checkpoint is invalid: {error}") from error


def _unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token of unknown words; None for CLIP, whose tokens include all bytes and whose ``unk_token`` ends texts."""
    return None if tokenizer.unk_token_id == tokenizer.eos_token_id else tokenizer.unk_token_id


def _lost_capitals(tokenizer: PreTrainedTokenizerBase, texts: Iterable[TokenizedText]) -> list[str]:
    """Words that a cased vocab.txt has and BERT's tokenizer reads in lower case, its default without settings."""
    if not isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), WordPiece):
        return []
    vocabulary = {word for word in tokenizer.get_vocab() if word != word.lower()}
    words = [word for text in texts for word in re.findall(r"\w+", text.text) if word in vocabulary]
    lost = {word for word in set(words) if tokenizer.tokenize(word) != [word]}
    return [word for word in words if word in lost]


def _alphabet(corpus: Iterable[str], limit: int = 1000) -> tuple[list[str], list[str]]:
    """The most frequent letters, and the ``##`` forms of those that occur inside words; both sorted."""
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = [word for text in corpus for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    counts = Counter("".join(words))
    letters = sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:limit]
    inner = {letter for word in words for letter in word[1:]}
    return sorted(letters), [f"##{letter}" for letter in sorted(inner.intersection(letters))]
