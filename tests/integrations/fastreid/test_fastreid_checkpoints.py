"""Checkpoints of our engine and of FastReID give the same embeddings in both."""

import logging

import pytest
import torch
import torch.nn.functional as F
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer

from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine import build
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.integrations.fastreid.checkpointer import T2IReIDCheckpointer
from t2ireid_plugin.integrations.fastreid.checks import warn_of_preprocess
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.stored import read_stored

TEXTS = ["A man in a red coat.", "A woman with long hair and a blue dress carries a bag."]


def pixels():
    """Values from 0 to 255, FastReID's input."""
    return 255 * torch.rand(3, 3, 32, 16, generator=torch.Generator().manual_seed(5))


def normalised():
    return pixels() / 127.5 - 1


def our_model(tiny_run, weights):
    """The model of `t2ireid test`."""
    return untrained_model(tiny_run, weights).load_param(weights).eval()


def untrained_model(tiny_run, vocabulary):
    """The run's model before its weights are loaded, with the vocabulary of a checkpoint."""
    cfg = load_cfg(tiny_run.folder / "config.yaml")
    return build.build_model(cfg, read_stored(Checkpoint.read(vocabulary)).tokenizer, 24)


def fastreid_model(make_cfg, file, weights):
    return build_model(make_cfg(file, "MODEL.WEIGHTS", str(weights), "MODEL.HEADS.NUM_CLASSES", "24")).eval()


@torch.no_grad()
def assert_same(arch, model):
    """Both rank by both branches, FastReID with T2IREID.IDENTITY_WEIGHT."""
    assert arch.backbone.ranking == Ranking("both", 0.5)
    model.ranking = model.ranking._replace(weight=0.5)
    torch.testing.assert_close(arch({"images": pixels()}), model.encode_gallery(normalised()), rtol=0, atol=1e-5)
    torch.testing.assert_close(arch({"captions": TEXTS}), model.encode_query(TEXTS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["best.pth", "last.pth"])
def test_our_checkpoints_load_in_fastreid(tiny_run, make_cfg, text_image_yaml, name) -> None:
    weights = tiny_run.folder / name
    arch = fastreid_model(make_cfg, text_image_yaml, weights)
    T2IReIDCheckpointer(arch).load(str(weights))
    model = our_model(tiny_run, weights)
    assert_same(arch, model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, arch.state_dict()[f"backbone.{key}"]), key


@pytest.mark.parametrize("name", ["model_best.pth", "model_final.pth"])
def test_fastreids_checkpoints_load_in_our_model(text_image_run, tiny_run, make_cfg, name) -> None:
    """Read by FastReID's own Checkpointer and by load_param."""
    weights = text_image_run.folder / name
    arch = fastreid_model(make_cfg, text_image_run.yaml, weights)
    Checkpointer(arch).load(str(weights))
    model = our_model(tiny_run, weights)
    assert not model.load_report.missing
    assert not model.load_report.mismatched
    assert all(unused.startswith("heads.losses.") for unused in model.load_report.unexpected)
    assert_same(arch, model)


def test_safetensors_load_in_fastreid(tiny_run, make_cfg, text_image_yaml, tmp_path) -> None:
    """Written by `t2ireid export`, with the tokenizer beside it."""
    from t2ireid_plugin.integrations.huggingface.export import export

    weights = export(tiny_run.folder, tmp_path / "exported") / "model.safetensors"
    arch = fastreid_model(make_cfg, text_image_yaml, weights)
    T2IReIDCheckpointer(arch).load(str(weights))
    assert_same(arch, our_model(tiny_run, tiny_run.folder / "best.pth"))


@pytest.mark.parametrize("way", ["MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN_PATH"])
def test_our_checkpoints_load_into_the_image_backbone(tiny_run, make_cfg, image_yaml, way) -> None:
    """Without FastReID's neck, its features are the embeddings before normalisation."""
    weights = str(tiny_run.folder / "best.pth")
    pretrain = ("MODEL.BACKBONE.PRETRAIN", "True") if way == "MODEL.BACKBONE.PRETRAIN_PATH" else ()
    words = (way, weights, "MODEL.HEADS.WITH_BNNECK", "False", "MODEL.HEADS.NUM_CLASSES", "24", *pretrain)
    arch = build_model(make_cfg(image_yaml, *words)).eval()
    if not pretrain:
        T2IReIDCheckpointer(arch).load(weights)
    with torch.no_grad():
        features = F.normalize(arch({"images": pixels()}), dim=-1)
        expected = our_model(tiny_run, weights).encode_image(normalised())
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_a_backbone_trained_on_images_loads_into_our_model(image_run, tiny_run, make_cfg) -> None:
    weights = image_run.folder / "model_final.pth"
    words = ("MODEL.HEADS.WITH_BNNECK", "False", "MODEL.HEADS.NUM_CLASSES", "24")
    arch = build_model(make_cfg(image_run.yaml, *words)).eval()
    Checkpointer(arch).load(str(weights))
    model = untrained_model(tiny_run, tiny_run.folder / "best.pth").load_param(weights)
    with torch.no_grad():
        features, expected = model.eval().encode_image(normalised()), F.normalize(arch({"images": pixels()}), dim=-1)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_a_checkpoint_of_another_model_is_refused(make_cfg, image_yaml, tmp_path) -> None:
    """FastReID would only log it and continue with random weights."""
    torch.save({"model": {"conv1.weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    arch = build_model(make_cfg(image_yaml, "MODEL.HEADS.NUM_CLASSES", "24"))
    with pytest.raises(CheckpointError, match="none of its 1 tensors fits"):
        T2IReIDCheckpointer(arch).load(str(tmp_path / "foreign.pth"))


def test_partly_fitting_weights_are_not_evaluated(tiny_run, run_tool, synthetic, text_image_yaml, tmp_path) -> None:
    """Only another dataset's classifier may be missing; FastReID would evaluate random weights."""
    content = dict(Checkpoint.read(tiny_run.folder / "best.pth").content)
    content["state_dict"] = {name: value for name, value in content["state_dict"].items() if "shared_mlp" not in name}
    torch.save(content, tmp_path / "part.pth")
    words = ("--eval-only", "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth' does not have all weights .* 2 are missing .*shared_mlp"):
        run_tool(synthetic.root, text_image_yaml, *words)


def test_another_preprocessing_than_the_trained_one_is_named(
    tiny_run, run_tool, make_cfg, synthetic, text_image_yaml, tmp_path, caplog, monkeypatch
) -> None:
    weights = ("--eval-only", "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", tiny_run.folder / "best.pth")
    run_tool(synthetic.root, text_image_yaml, *weights)
    assert "differs from the training's" not in (tmp_path / "log.txt").read_text()
    run_tool(synthetic.root, text_image_yaml, *weights, "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]")
    log = (tmp_path / "log.txt").read_text()
    assert "MODEL.PIXEL_STD: [1.0, 1.0, 1.0] differs from the training's, [127.5, 127.5, 127.5]" in log
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)  # FastReID turns it off
    trained = read_stored(Checkpoint.read(tiny_run.folder / "best.pth")).preprocess
    warn_of_preprocess(make_cfg(text_image_yaml, "INPUT.SIZE_TEST", "[64, 32]"), trained)
    assert "INPUT.SIZE_TEST: [64, 32] differs from the training's, [32, 16]" in caplog.text


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("ID_INSTRUCTION", "caption"), "ID_INSTRUCTION"),
        (("IDENTITY_WEIGHT", "0.3"), "IDENTITY_WEIGHT"),
    ],
)
def test_the_ranking_is_stored_and_resuming_with_another_is_refused(text_image_run, run_tool, tmp_path, words, name):
    stored = read_stored(Checkpoint.read(text_image_run.folder / "model_best.pth"))
    assert stored.ranking == Ranking("both", 0.5)
    for file in ("model_final.pth", "last_checkpoint"):
        (tmp_path / file).write_bytes((text_image_run.folder / file).read_bytes())
    words = ("OUTPUT_DIR", tmp_path, "SOLVER.MAX_EPOCH", 4, f"T2IREID.{words[0]}", words[1])
    with pytest.raises(CheckpointError, match=rf"trained with another T2IREID\..*{name}"):
        run_tool(text_image_run.root, text_image_run.yaml, "--resume", *words)


def test_resuming_with_another_vocabulary_is_refused(text_image_run, run_tool, benchmark_root, tmp_path) -> None:
    """The same identities with other captions: token ids would have another meaning."""
    for name in ("model_final.pth", "last_checkpoint"):
        (tmp_path / name).write_bytes((text_image_run.folder / name).read_bytes())
    words = ("OUTPUT_DIR", tmp_path, "SOLVER.MAX_EPOCH", 4, "T2IREID.BERT_CONFIG.vocab_size", 290)
    with pytest.raises((CheckpointError, RuntimeError), match="vocabulary"):
        run_tool(text_image_run.root, text_image_run.yaml, "--resume", *words)
