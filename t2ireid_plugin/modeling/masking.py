"""Words hidden from a text, which a model is to guess from the rest of it and from the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from t2ireid_plugin.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_HIDDEN = -100  # what torch's cross-entropy leaves out
_MASKED, _RANDOM = 0.8, 0.1  # of the hidden words; the rest stay as they are


def hide_words(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase, share: float = 0.15) -> tuple[Tensor, Tensor]:
    """Token ids ``[n, W]`` with a ``share`` of the words hidden, and the hidden ones' own ids, `NOT_HIDDEN` elsewhere.

    As in BERT (Devlin et al. 2019, section 3.1) four fifths of them give way to the mask token, a tenth to any token
    of the vocabulary, and a tenth stay, so that no word that is seen can be trusted. Special tokens, padding among
    them, are no words. Every text that has words hides at least one.

    Raises:
        ConfigError: for a tokenizer with nothing to write in place of a word.
    """
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)), device=input_ids.device)
    is_word = ~torch.isin(input_ids, special)
    # The word with the lowest draw is hidden in any case.
    draw = torch.rand(input_ids.shape, device=input_ids.device).masked_fill(~is_word, 2.0)
    hidden = is_word & ((draw < share) | (draw == draw.min(dim=1, keepdim=True).values))
    fate = torch.rand(input_ids.shape, device=input_ids.device)
    any_token = torch.randint(len(tokenizer), input_ids.shape, device=input_ids.device)
    shown = torch.where(hidden & (fate < _MASKED), mask_id(tokenizer), input_ids)
    shown = torch.where(hidden & (fate >= _MASKED) & (fate < _MASKED + _RANDOM), any_token, shown)
    return shown, torch.where(hidden, input_ids, NOT_HIDDEN)


def mask_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for a hidden word; where there is none (CLIP), the one that starts a text.

    That one is otherwise at the first place only, so it cannot be taken for a word.

    Raises:
        ConfigError: when the tokenizer has neither.
    """
    for token_id in (tokenizer.mask_token_id, tokenizer.bos_token_id):
        if token_id is not None:
            return int(token_id)
    raise ConfigError(
        f"loss 'mlm' needs a token that stands for a hidden word, and {type(tokenizer).__name__} has neither a mask "
        "token nor one that starts a text"
    )
