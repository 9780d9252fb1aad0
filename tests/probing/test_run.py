"""The command ``t2ireid probe`` on a trained run."""

import json

import pytest
import torch

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.transforms import TestTransform as Transform
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.modeling.checkpoint import Checkpoint, weights_digest
from t2ireid_plugin.probing.run import PROBED, embed_photos
from t2ireid_plugin.synthetic import write_synthetic


def probe(words, folder, capsys):
    """The file that the command writes, and its output."""
    assert main(["probe", *words]) == 0
    return json.loads((folder / "probes_cuhkpedes.json").read_text()), capsys.readouterr().out


@pytest.fixture(scope="module")
def draw(synthetic, tmp_path_factory):
    """`draw(outfits)`: a root with the run's people in training and enough people to probe in test."""
    counts = {name: getattr(synthetic, name) for name in ("train_ids", "val_ids", "photos", "captions")}

    def write(outfits):
        root = tmp_path_factory.mktemp("drawn")
        write_synthetic(root, **counts, test_ids=20, outfits=outfits, progress=False)
        return root

    return write


@pytest.mark.slow
def test_probe_of_the_runs_best_checkpoint_across_outfits(tiny_run, tiny_settings, draw, tmp_path, capsys):
    (tmp_path / "best.pth").symlink_to(tiny_run.folder / "best.pth")
    results, printed = probe(tiny_settings(tmp_path, full=True, data__root=draw(2)), tmp_path, capsys)
    assert results["target"] == "cuhkpedes"
    assert results["checkpoint"] == str(tmp_path / "best.pth")
    assert results["photos"] == 80
    assert results["command"].startswith("t2ireid probe --config-file")
    assert "scikit-learn" in results["versions"]
    assert list(results["probes"]["means"]) == list(PROBED)
    for name in PROBED:
        assert list(results["probes"]["means"][name]) == ["identity", "clothing"]
        assert {"sex", "sleeve"} <= set().union(*results["probes"]["attributes"][name].values())
    queries = {"i2i_any_outfit": 80, "i2i_other_outfit": 80, "identity_any_outfit": 160, "identity_other_outfit": 160}
    assert {name: metrics["valid_queries"] for name, metrics in results["outfits"].items()} == queries
    for metrics in results["outfits"].values():
        assert 0 <= metrics["interval95"]["mAP"][0] <= metrics["mAP"] <= metrics["interval95"]["mAP"][1] <= 1
    assert all(words in printed for words in ("mean above chance", *queries))


@pytest.mark.slow
def test_probe_of_given_weights_on_people_with_one_outfit(tiny_run, tiny_settings, draw, tmp_path, capsys):
    best = tiny_run.folder / "best.pth"
    words = tiny_settings(tmp_path, full=True, model__load_weights=best, data__root=draw(1))
    results, printed = probe(words, tmp_path, capsys)
    assert results["checkpoint"] == str(best)
    assert results["weights"] == weights_digest(Checkpoint.read(best).state)
    assert "outfits" not in results
    assert "i2i_other_outfit" not in printed


def test_probed_features_are_the_models(tiny_settings, tmp_path):
    words = tiny_settings(tmp_path)
    engine = build_run(load_cfg(words[1], words[2:]), None)
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


def test_data_and_runs_that_cannot_be_probed_are_refused(tiny_run, tiny_settings, benchmark_root, tmp_path, capsys):
    root = benchmark_root("cuhkpedes")
    folder = tmp_path / "log"
    words = tiny_settings(folder, model__load_weights=tiny_run.folder / "best.pth", data__root=root)
    assert main(["probe", *words]) == 2
    assert "attributes.json" in capsys.readouterr().err
    words = tiny_settings(folder, model__load_weights=tiny_run.folder / "best.pth")
    assert main(["probe", *words]) == 2
    assert "of the 8 people" in capsys.readouterr().err
    assert main(["probe", *tiny_settings(folder)]) == 2
    assert "nothing to test: no checkpoint at" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))
