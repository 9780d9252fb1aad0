"""Captions that lack a side, in a tiny run."""

import numpy as np
import torch
from tiny_models import CAPTIONS, images, tiny_model

from benchmarks.stand_ins import CHANGES, change, measure
from t2ireid_plugin.evaluation.protocols import Embeddings
from t2ireid_plugin.modeling.instructions import split_phrases
from t2ireid_plugin.modeling.ranking import Ranking


def test_changed_captions_lack_what_they_are_to_lack():
    for name, side in (("clothing alone", 0), ("clothing, with a pronoun", 0), ("identity alone", 1)):
        changed = change(CAPTIONS, name)
        for i, (before, after) in enumerate(zip(CAPTIONS, changed)):
            assert (before == after) == bool(i % 4)
            assert [bool(part) for part in split_phrases(after)] == [i % 4 > 0 or place != side for place in (0, 1)]
    assert change(CAPTIONS, "as they are") == CAPTIONS
    assert set(CHANGES) == {"as they are", "clothing alone", "clothing, with a pronoun", "identity alone"}


def test_a_missing_side_does_not_count_where_it_is_left_out():
    """R@1 from the similarities of the other branch alone."""
    model = tiny_model()
    model.ranking = Ranking("both", 0.9)
    texts = change(CAPTIONS[:8], "identity alone")
    with torch.no_grad():
        out = model(images(8))
        queries = model.encode_text([split_phrases(text)[0] for text in texts[::4]])
    pids = np.arange(8)
    e = Embeddings(out.image_embeds, pids, pids * 0, pids, model.ranking, cloth_images=out.cloth_image_embeds)
    lacks_identity, lacks_clothing = measure(model, e, texts, "identity alone")
    assert lacks_identity[2:] == ["0"]
    nearest = (queries @ out.image_embeds.T).argmax(dim=1)
    expected = np.mean(nearest.numpy() == pids[::4])
    assert (lacks_clothing[2], lacks_clothing[7]) == ("2", f"{100 * expected:.2f}")
