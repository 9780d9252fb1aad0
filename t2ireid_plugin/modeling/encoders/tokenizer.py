"""Tokenizes captions with a cache per string, and learns a WordPiece vocabulary from captions."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from t2ireid_plugin.errors import DataError, EncoderError
from t2ireid_plugin.utils.safe_io import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# Texts are tokenized in the main process while data workers fork; otherwise the library warns at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SPECIAL_TOKENS = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
_ROLES = "special_tokens_map"  # JSON key of the roles of special tokens: padding, end of text, …


class CachedTokenizer:
    """Tokenizes texts to a fixed length and caches the ids of each string.

    Captions return every epoch in new batches, so the cache has one entry per string, not per batch. The oldest entries
    are dropped first.

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
            encoded = self.tokenizer(new, truncation=True, max_length=self.max_length)["input_ids"]
            fill = (self.pad,) * self.max_length if self.attends_padding else ()
            fresh = {text: (*ids, *fill[len(ids) :]) for text, ids in zip(new, encoded)}
            self._warn_about_unknown(fresh)
            self._ids.update(fresh)
        rows = [self._ids[text] for text in texts]
        while len(self._ids) > self.capacity:
            del self._ids[next(iter(self._ids))]
        return rows

    def _warn_about_unknown(self, fresh: Mapping[str, Sequence[int]]) -> None:
        unknown_id = self.tokenizer.unk_token_id
        # CLIP's tokens include all bytes, so nothing is unknown; its unk_token is the end of text.
        if self._warned or unknown_id is None or unknown_id == self.tokenizer.eos_token_id:
            return
        special = set(self.tokenizer.all_special_ids) - {unknown_id}
        for text, ids in fresh.items():
            words = [i for i in ids if i not in special]
            unknown = words.count(unknown_id)
            if unknown > len(words) / 2:
                logger.warning(
                    "most of this text is unknown to the tokenizer (%d of %d tokens): %r; choose a text encoder "
                    "for its language, e.g. model.bert_base_path bert-base-chinese for Chinese.",
                    unknown,
                    len(words),
                    text,
                )
                self._warned = True  # once is enough: the whole dataset would repeat it
                return


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


def tokenizer_to_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """The whole tokenizer as one JSON string, for storing in a checkpoint.

    Raises:
        EncoderError: for a tokenizer that has no JSON form, such as SentencePiece's.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(f"a {type(tokenizer).__name__} cannot be stored as JSON; keep its folder")
    # The backend knows which tokens are special, but not their roles.
    return json.dumps({**json.loads(backend.to_str()), _ROLES: tokenizer.special_tokens_map}, ensure_ascii=False)


def tokenizer_from_json(text: str) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer_to_json` wrote; if the roles of special tokens are missing, BERT's apply.

    Raises:
        EncoderError: for anything else, such as the content of a foreign checkpoint.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        content = parse_json(text)
        roles = content.pop(_ROLES, SPECIAL_TOKENS)
        backend = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    except Exception as error:  # the library raises bare Exception
        raise EncoderError(f"the tokenizer stored in the checkpoint is invalid: {error}") from error


def _alphabet(corpus: Iterable[str], limit: int = 1000) -> tuple[list[str], list[str]]:
    """The most frequent letters, and the ``##`` forms of those that occur inside words; both sorted."""
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = [word for text in corpus for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    counts = Counter("".join(words))
    letters = sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:limit]
    inner = {letter for word in words for letter in word[1:]}
    return sorted(letters), [f"##{letter}" for letter in sorted(inner.intersection(letters))]
