"""Masked language modelling: hides words of a text, which the model predicts from the rest and from the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from t2ireid_plugin.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_HIDDEN = -100  # ignored by torch's cross-entropy
_MASKED, _RANDOM = 0.8, 0.1  # shares of the hidden words; the rest stay unchanged


def hide_words(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase, share: float = 0.15) -> tuple[Tensor, Tensor]:
    """Token ids ``[n, W]`` with a ``share`` of the words hidden, and the original ids of these, `NOT_HIDDEN` elsewhere.

    As in BERT (Devlin et al. 2019, section 3.1), four fifths of the hidden words become the mask token, a tenth become
    a random token of the vocabulary, and a tenth stay, so that the model cannot trust any visible word. Special tokens
    such as padding are never hidden. Every text with words hides at least one. For a tokenizer without a mask token
    (CLIP) the start of text stands for a hidden word; it otherwise stands only at the first position.

    Raises:
        ConfigError: for a tokenizer without a token that can stand for a hidden word.
    """
    mask_id = tokenizer.bos_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    if mask_id is None:
        raise ConfigError(
            f"loss 'mlm' needs a token that stands for a hidden word, but {type(tokenizer).__name__} has neither a "
            "mask token nor a start-of-text token"
        )
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)), device=input_ids.device)
    is_word = ~torch.isin(input_ids, special)
    # The word with the lowest draw is always hidden.
    draw = torch.rand(input_ids.shape, device=input_ids.device).masked_fill(~is_word, 2.0)
    hidden = is_word & ((draw < share) | (draw == draw.min(dim=1, keepdim=True).values))
    replacement = torch.rand(input_ids.shape, device=input_ids.device)
    any_token = torch.randint(len(tokenizer), input_ids.shape, device=input_ids.device)
    masked = torch.where(hidden & (replacement < _MASKED), mask_id, input_ids)
    becomes_random = hidden & (replacement >= _MASKED) & (replacement < _MASKED + _RANDOM)
    masked = torch.where(becomes_random, any_token, masked)
    return masked, torch.where(hidden, input_ids, NOT_HIDDEN)


def hide_tokens(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase, share: float = 0.15) -> tuple[Tensor, Tensor]:
    """As `hide_words`, by the rule of IRRA's code for CLIP's tokens, padded with 0.

    The last token that is not special stands for a hidden word (49405 of CLIP's 49408). The words are all others except
    0, which is also the padding. A text of which none is drawn hides its first token.
    """
    special = set(tokenizer.all_special_ids)
    mask_id = next(i for i in reversed(range(len(tokenizer))) if i not in special)
    is_word = (input_ids > 0) & (input_ids != mask_id) & ~torch.isin(input_ids, torch.tensor(sorted(special)))
    draw = torch.rand(input_ids.shape).masked_fill(~is_word, 1.0)
    draw[:, 1].masked_fill_((draw >= share).all(dim=1), -1.0)
    hidden = draw < share
    any_word = torch.randint(1, mask_id, input_ids.shape)
    masked = torch.where(hidden & (draw < _MASKED * share), mask_id, input_ids)
    becomes_random = hidden & (draw >= _MASKED * share) & (draw < (_MASKED + _RANDOM) * share)
    return torch.where(becomes_random, any_word, masked), torch.where(hidden, input_ids, NOT_HIDDEN)
