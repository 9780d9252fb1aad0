"""The command ``t2ireid probe`` on a trained run."""

import functools
import json

import pytest
import torch

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.transforms import TestTransform as Transform
from t2ireid_plugin.probing.run import PROBED, embed_photos
from t2ireid_plugin.synthetic import write_synthetic


@pytest.fixture(scope="module")
def drawn(synthetic, tmp_path_factory):
    """`drawn(outfits)`: a root with the people that the run was trained on, and enough to be tested on."""
    counts = {name: getattr(synthetic, name) for name in ("train_ids", "val_ids", "photos", "captions")}

    @functools.cache
    def draw(outfits):
        root = tmp_path_factory.mktemp("drawn")
        write_synthetic(root, **counts, test_ids=20, outfits=outfits, progress=False)
        return root

    return draw


def probe(words, folder):
    assert main(["probe", *words]) == 0
    return json.loads((folder / "probes_cuhkpedes.json").read_text())


def test_a_run_is_probed_on_its_people(tiny_run, tiny_settings, drawn, tmp_path, capsys):
    best = tiny_run.folder / "best.pth"
    found = probe(tiny_settings(tmp_path, full=True, model__load_weights=best, data__root=drawn(1)), tmp_path)
    assert found["target"] == "cuhkpedes"
    assert found["weights"] == str(best)
    assert found["photos"] == 80
    assert found["command"].startswith("t2ireid probe --config-file")
    assert "scikit-learn" in found["versions"]
    assert "outfits" not in found
    assert list(found["probes"]["means"]) == list(PROBED)
    for name in PROBED:
        assert list(found["probes"]["means"][name]) == ["identity", "clothing"]
        assert {"sex", "sleeve"} <= set().union(*found["probes"]["attributes"][name].values())
    printed = capsys.readouterr().out
    assert "mean above chance" in printed
    assert "i2i_other_outfit" not in printed


def test_the_best_checkpoint_of_the_runs_own_folder_is_the_default(tiny_run, tiny_settings, drawn, tmp_path):
    (tmp_path / "best.pth").symlink_to(tiny_run.folder / "best.pth")
    found = probe(tiny_settings(tmp_path, data__root=drawn(1)), tmp_path)
    assert found["weights"] == str(tmp_path / "best.pth")


def test_retrieval_across_outfits_where_people_have_several(tiny_run, tiny_settings, drawn, tmp_path, capsys):
    words = tiny_settings(tmp_path, full=True, model__load_weights=tiny_run.folder / "best.pth", data__root=drawn(2))
    found = probe(words, tmp_path)
    queries = {"i2i_any_outfit": 80, "i2i_other_outfit": 80, "identity_any_outfit": 160, "identity_other_outfit": 160}
    assert {name: metrics["valid_queries"] for name, metrics in found["outfits"].items()} == queries
    for metrics in found["outfits"].values():
        assert 0 <= metrics["interval95"]["mAP"][0] <= metrics["mAP"] <= metrics["interval95"]["mAP"][1] <= 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in queries)


def test_the_features_are_the_models(build):
    engine = build()
    engine.set_model_mode("eval")
    loader = engine.test_loader["cuhkpedes"]["gallery"]
    features = embed_photos(engine.model, loader)
    path = loader.dataset.data[5][0]
    transform = loader.dataset.transform
    assert isinstance(transform, Transform)
    with torch.no_grad():
        output = engine.model(transform.tensor(transform.load(path))[None])
    for name in PROBED:
        assert len(features[name]) == 32
        torch.testing.assert_close(features[name][5], getattr(output, name)[0], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_probed_is_refused(tiny_run, tiny_settings, benchmark_root, tmp_path, capsys):
    root = benchmark_root("cuhkpedes")
    folder = tmp_path / "log"
    words = tiny_settings(folder, model__load_weights=tiny_run.folder / "best.pth", data__root=root)
    assert main(["probe", *words]) == 2
    assert "only people drawn by `t2ireid prepare synthetic` have true attributes" in capsys.readouterr().err
    words = tiny_settings(folder, model__load_weights=tiny_run.folder / "best.pth")
    assert main(["probe", *words]) == 2
    assert "of the 8 people" in capsys.readouterr().err
    assert main(["probe", *tiny_settings(folder)]) == 2
    assert "nothing to test: model.load_weights is empty" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))
