"""How a model scores an image for a caption: by the whole caption and one branch, or by both branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from t2ireid_plugin.errors import ConfigError, check_choice, check_keys
from t2ireid_plugin.modeling.instructions import split_caption, split_phrases

if TYPE_CHECKING:
    from torch import Tensor

CAPTION, BOTH = "caption", "both"
# Texts that each branch may be trained on.
ID_INSTRUCTIONS, CLOTH_INSTRUCTIONS = (CAPTION, "identity"), (CAPTION, "clothing")


class Ranking(NamedTuple):
    """The score of an image for a caption; a model ranks by what it was trained for.

    ``caption``: the cosine of the caption and the image's identity embedding. ``both``: ``weight`` times the cosine of
    the caption's identity part and the identity embedding, plus ``1 - weight`` times the cosine of its clothing part
    and the clothing embedding. A side that the caption lacks is left out of the score (`without_missing`).
    """

    by: str = CAPTION
    weight: float = 0.5
    clothing: str = "clothing"  # what the clothing branch reads with ``both``: the clothing part, or the caption
    chosen: bool = False  # whether val chose the weight

    @classmethod
    def of_training(cls, id_instruction: str, cloth_instruction: str, weight: float = 0.5) -> Ranking:
        """The ranking of a model that was trained on these texts, see ``data.id_instruction``."""
        return cls(BOTH if id_instruction == "identity" else CAPTION, weight, cloth_instruction)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Ranking:
        """From the entry of a checkpoint; fields that it lacks have their defaults.

        Raises:
            ConfigError: for an unknown field or choice, or a weight that is not a share.
        """
        check_keys("ranking", entry, cls._fields)
        ranking = cls(**entry)
        check_choice("ranking.by", ranking.by, (CAPTION, BOTH))
        check_choice("ranking.clothing", ranking.clothing, CLOTH_INSTRUCTIONS)
        if not (isinstance(ranking.weight, (int, float)) and 0 <= ranking.weight <= 1):
            raise ConfigError(f"ranking.weight: {ranking.weight!r} must be a number from 0 to 1")
        return ranking

    def __str__(self) -> str:
        if self.by == CAPTION:
            return "by the whole caption and the identity branch"
        shares = f"identity {self.weight:g} and clothing {1 - self.weight:g}"
        return f"by both branches, {shares}, each with its part of the caption"

    def parts(self, captions: Sequence[str]) -> tuple[list[str], list[str]]:
        """The identity and the clothing part of each caption, as the branches read them with ``both``.

        A part that a caption lacks has the stand-in of `split_caption`, which the fusion reads.
        """
        identity, clothing = zip(*map(split_caption, captions))
        return list(identity), list(captions if self.clothing == CAPTION else clothing)

    def without_missing(self, captions: Sequence[str], identity: Tensor, clothing: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings ``[n, 256]`` of the `parts`, zero for a side that its caption lacks; a stand-in ranks worse.

        A caption without either side keeps both, and so does one that the clothing branch reads whole.
        """
        present = identity.new_tensor(self.present(captions))  # [n, 2]
        return identity * present[:, :1], clothing * present[:, 1:]

    def present(self, captions: Sequence[str]) -> list[tuple[bool, bool]]:
        """Whether each caption has an identity and a clothing side, see `without_missing`."""
        phrases = [split_phrases(caption) for caption in captions]
        return [(bool(a) or not b, bool(b) or not a or self.clothing == CAPTION) for a, b in phrases]

    def join(self, identity: Tensor, clothing: Tensor) -> Tensor:
        """Both embeddings ``[n, 256]`` side by side, ``[n, 512]``, so that an inner product is the weighted sum."""
        return join(identity, clothing, self.weight)


def join(identity: Tensor, clothing: Tensor, weight: float) -> Tensor:
    """Each embedding times the root of its weight, side by side; unit norm stays unit norm."""
    import torch  # on use, as names are checked before it is imported

    return torch.cat([weight**0.5 * identity, (1 - weight) ** 0.5 * clothing], dim=-1)
