"""`Ranking`: how a model scores an image for a caption, and what checkpoints say about it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.instructions import split_caption
from t2ireid_plugin.modeling.ranking import Ranking, join
from t2ireid_plugin.modeling.stored import read_stored

CAPTIONS = ["A tall man in a red coat with a bag.", "She wears a blue dress.", "An old woman with grey hair."]


def units(rng, n):
    return torch.nn.functional.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(rng)))


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_inner_products_of_joined_embeddings_are_weighted_sums_of_cosines(seed, weight):
    a, b, c, d = (units(seed + i, 5) for i in range(4))
    joined, others = Ranking("both", weight).join(a, b), join(c, d, weight)
    assert joined.shape == (5, 16)
    torch.testing.assert_close(joined @ others.T, weight * a @ c.T + (1 - weight) * b @ d.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(5))


def test_parts_are_the_texts_that_the_branches_were_trained_on():
    identity, clothing = Ranking("both").parts(CAPTIONS)
    assert list(zip(identity, clothing)) == [split_caption(caption) for caption in CAPTIONS]
    assert Ranking("both", clothing="caption").parts(CAPTIONS) == (identity, CAPTIONS)


def test_a_side_that_a_caption_lacks_is_zero():
    captions = ["A tall man in a red coat.", "He wears a red coat.", "An old woman.", "Something.", "A red coat."]
    identity, clothing = Ranking("both").without_missing(captions, torch.ones(5, 8), torch.ones(5, 8))
    assert identity.mean(dim=1).tolist() == [1, 0, 1, 1, 0]
    assert clothing.mean(dim=1).tolist() == [1, 1, 0, 1, 1]
    whole = Ranking("both", clothing="caption").without_missing(captions, torch.ones(5, 8), torch.ones(5, 8))
    assert torch.equal(whole[0], identity)
    assert whole[1].all()


@pytest.mark.parametrize(
    ("texts", "ranking"),
    [
        (("identity", "clothing"), Ranking("both")),
        (("identity", "caption"), Ranking("both", clothing="caption")),
        (("caption", "clothing"), Ranking("caption")),
    ],
)
def test_an_older_checkpoint_ranks_by_the_texts_of_its_settings(texts, ranking, tmp_path):
    data = dict(zip(("id_instruction", "cloth_instruction"), texts))
    assert stored_ranking(tmp_path, config={"data": data, "loss": {"name": "terms"}}) == ranking
    assert Ranking.of_training(*texts) == ranking


def stored_ranking(folder, **entries):
    torch.save({"state_dict": {"scale": torch.ones(1)}, **entries}, folder / "a.pth")
    return read_stored(Checkpoint.read(folder / "a.pth")).ranking


def test_a_checkpoint_without_texts_has_no_ranking(tmp_path):
    """Of an image-only training, whose settings name the texts but do not use them, or weights alone."""
    assert stored_ranking(tmp_path) is None
    data = {"id_instruction": "identity", "cloth_instruction": "clothing"}
    assert stored_ranking(tmp_path, config={"data": data, "loss": {"name": "softmax"}}) is None


def test_the_entry_counts_more_than_the_settings(tmp_path):
    entry = Ranking("both", 0.3, chosen=True)._asdict()
    config = {"data": {"id_instruction": "caption"}, "loss": {"name": "terms"}}
    assert stored_ranking(tmp_path, ranking=entry, config=config) == Ranking("both", 0.3, chosen=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": "sum"}, "ranking.by: unknown 'sum'; valid: caption, both"),
        ({"clothing": "hat"}, "ranking.clothing: unknown 'hat'; valid: caption, clothing"),
        ({"weight": 1.5}, "ranking.weight: 1.5 must be a number from 0 to 1"),
        ({"weight": float("nan")}, "ranking.weight: nan must be"),
        ({"weight": "half"}, "ranking.weight: 'half' must be"),
        ({"wieght": 0.5}, "ranking: unknown wieght; valid: by, weight, clothing, chosen"),
    ],
)
def test_a_ranking_that_cannot_be_is_refused_with_the_file(change, message, tmp_path):
    with pytest.raises(CheckpointError, match=f"a.pth': {message}"):
        stored_ranking(tmp_path, ranking={**Ranking()._asdict(), **change})


def test_a_ranking_that_is_not_a_table_is_refused_with_the_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.pth'.*ranking"):
        stored_ranking(tmp_path, ranking=["both", 0.5])
