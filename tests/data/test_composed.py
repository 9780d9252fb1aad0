"""Queries of composed search, compared with a loop over all photos and captions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.composed import composed_queries
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.item_table import ItemTable, Texts
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic import write_synthetic


def table(photos, order):
    """Two captions per photo ``(pid, outfit)``, the photos in ``order``; names and captions go with the photo."""
    strings = Texts([text for i in range(len(photos)) for text in (f"d/{i}.jpg", f"first {i}", f"second {i}")])
    rows = [[3 * i + 1, photos[i][0], 0, 0, photos[i][1], 3 * i + 2 + k, -1, -1] for i in order for k in range(2)]
    return ItemTable(strings, torch.tensor(rows))


PHOTOS = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 2)), min_size=1, max_size=12)


@given(PHOTOS, st.randoms(use_true_random=False))
def test_queries_equal_those_of_a_loop_in_any_order(photos, random):
    chosen = []  # by order: (words, file of the reference)
    for order in (list(range(len(photos))), random.sample(range(len(photos)), len(photos))):
        captions = table(photos, order)
        images = captions.images()
        shown = [photos[i] for i in order]  # of each gallery image
        asked = [
            2 * position + k
            for position, (pid, outfit) in enumerate(shown)
            for k in range(2)
            if outfit >= 0 and any(p == pid and -1 != o != outfit for p, o in shown)
        ]
        if not asked:
            with pytest.raises(DataError, match="two outfits"):
                composed_queries(captions, images)
            continue
        found = composed_queries(captions, images)
        assert found.captions.tolist() == asked
        for reference, caption, look in zip(found.references, found.captions, found.looks, strict=True):
            pid, outfit = shown[caption // 2]
            assert shown[reference][0] == pid
            assert shown[reference][1] not in (-1, outfit)
            assert [photo == (pid, outfit) for photo in shown] == (found.gallery_looks == look).tolist()
        pairs = zip(found.captions.tolist(), found.references.tolist(), strict=True)
        chosen.append({(captions[caption][4], images[reference][0]) for caption, reference in pairs})
    assert all(own == chosen[0] for own in chosen)


def test_drawn_people_in_two_outfits(tmp_path):
    write_synthetic(
        tmp_path, train_ids=1, val_ids=4, test_ids=8, photos=4, outfits=2, train_outfits=2, seed=1, progress=False
    )
    dataset = CaptionDataset(tmp_path, spec=BENCHMARKS["cuhkpedes"], verbose=False)
    queries = composed_queries(dataset.query, dataset.gallery)
    assert queries.captions.tolist() == list(range(8 * 4 * 2))
    assert np.bincount(queries.gallery_looks).tolist() == [2] * 16
    val = dataset.with_eval_split("val")
    assert len(composed_queries(val.query, val.gallery).references) == 4 * 4 * 2
