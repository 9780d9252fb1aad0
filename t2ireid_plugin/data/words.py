"""The words of texts as targets: which branch of the model describes what, see the terms `words` and `leak`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from t2ireid_plugin.modeling.instructions import content_words


def frequent_words(texts: Iterable[str], min_count: int) -> list[str]:
    """The content words that occur at least ``min_count`` times in all texts together, sorted."""
    counts = Counter(word for text in texts for word in content_words(text))
    return sorted(word for word, count in counts.items() if count >= min_count)


def word_targets(texts: Sequence[str], words: Sequence[str]) -> Tensor:
    """``n`` texts to ``[n, len(words)]``: 1 where the text has the word, 0 elsewhere."""
    return torch.tensor([[float(word in text) for word in words] for text in map(set, map(content_words, texts))])
