"""Repair of texts before CLIP's tokenizer reads them, as in OpenAI's code and so in IRRA's, RDE's and TBPS-CLIP's.

Hugging Face's tokenizer leaves it out, and lower-cases and joins spaces as they do.
"""

from __future__ import annotations

import html

import ftfy

OF_CLIP = "a</w>"  # a token of CLIP's vocabulary, which BERT's and SigLIP's lack


def repair_text(text: str) -> str:
    """``text`` with encoding and typographic marks repaired (``â€™`` and ``’`` are ``'``), and HTML entities read."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # as nearly all captions; the repair takes longer than the tokenizer
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
