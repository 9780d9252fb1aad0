import pytest
from torchreid import data as torchreid_data

import t2ireid_plugin
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.integrations.torchreid import registration


def registered():
    """Names in torchreid's own table."""
    with pytest.raises(ValueError, match="nothing of this name") as error:
        torchreid_data.datasets.init_image_dataset("nothing of this name")
    return str(error.value)


def test_importing_registers_test_and_val_beside_torchreids_own():
    for name in ("'cuhkpedes'", "'cuhkpedes_val'", "'market1501'"):
        assert registered().count(name) == 1


def test_registering_again_does_nothing():
    before = registered()
    t2ireid_plugin.register()
    assert registered() == before


def test_a_name_that_somebody_else_took_is_named(monkeypatch):
    monkeypatch.setattr(registration, "_registered", set())
    with pytest.raises(ValueError, match="cuhkpedes"):
        t2ireid_plugin.register()


@pytest.mark.parametrize(("name", "queries", "gallery"), [("cuhkpedes", 64, 32), ("cuhkpedes_val", 64, 32)])
def test_torchreids_own_function_builds_them(synthetic, name, queries, gallery):
    """With all the arguments that torchreid's data manager passes to every dataset."""
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
