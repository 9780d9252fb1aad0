import pytest
from torchreid import data as torchreid_data

import t2ireid_plugin
from t2ireid_plugin.data.dataset import CaptionDataset


def registered():
    """torchreid's list of datasets, from its error message."""
    with pytest.raises(ValueError, match="no such dataset") as error:
        torchreid_data.datasets.init_image_dataset("no such dataset")
    return str(error.value)


def test_importing_the_package_registers_test_and_val():
    for name in ("'cuhkpedes'", "'cuhkpedes_val'", "'market1501'"):
        assert registered().count(name) == 1


def test_registering_again_has_no_effect():
    before = registered()
    t2ireid_plugin.register()
    assert registered() == before


def test_a_dataset_name_that_is_taken_is_an_error(monkeypatch):
    monkeypatch.setitem(getattr(torchreid_data.datasets, "__image_datasets"), "cuhkpedes", object)
    with pytest.raises(ValueError, match="cuhkpedes"):
        t2ireid_plugin.register()


@pytest.mark.parametrize(("name", "queries", "gallery"), [("cuhkpedes", 64, 32), ("cuhkpedes_val", 64, 32)])
def test_torchreid_builds_the_datasets(synthetic, name, queries, gallery):
    """With all arguments that torchreid's data manager passes to a dataset."""
    dataset = torchreid_data.datasets.init_image_dataset(
        name,
        transform=None,
        k_tfm=1,
        mode="query",
        combineall=False,
        root=str(synthetic.root),
        split_id=0,
        cuhk03_labeled=False,
        cuhk03_classic_split=False,
        market1501_500k=False,
        verbose=False,
    )
    assert isinstance(dataset, CaptionDataset)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (192, queries, gallery)
    assert len(dataset) == queries
    assert dataset.eval_split == ("val" if name.endswith("_val") else "test")
