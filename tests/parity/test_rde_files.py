"""Checkpoints of RDE's and ITSELF's authors, from tiny files of their layout."""

import numpy as np
import pytest
import torch
from parity import irra_weights as tiny
from parity import rde_weights as rde
from parity.irra_files import TOKENS, write_archive

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.checks import for_testing
from t2ireid_plugin.modeling.checkpoint import Checkpoint

pytestmark = pytest.mark.slow

SIZES = "model.max_length 12 model.stride 4 data.height 32 data.width 16 data.workers 0 use_gpu False"
SIZES += " test.bootstrap 0 test.pictures 0 model.token_selection.dim 32"


def write_best(file, heads):
    """Writes a checkpoint of several processes, and returns its weights without ``module.``."""
    clip = {f"base_model.{name}": shape for name, shape in (tiny.shapes((7, 3))[0] | TOKENS).items()}
    state = {name: torch.tensor(array).half() for name, array in (tiny.weights(clip) | heads).items()}
    state |= {name: tensor.float() for name, tensor in state.items() if ".bns." in name}  # stays in float32
    for name in heads:
        if name.endswith("bns.0.running_mean"):
            state[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    content = {"model": {f"module.{name}": tensor for name, tensor in state.items()}, "optimizer": {}, "iteration": 0}
    torch.save({**content, "scheduler": {"last_epoch": 3}, "num_epoch": 60, "epoch": 4}, file)
    return {name: tensor.float() for name, tensor in state.items()}


@pytest.fixture
def words(synthetic, tmp_path):
    """Settings of a test of ``best.pth`` in the temporary folder."""
    write_archive(tmp_path / "ViT-B-16.pt")
    archive = tmp_path / "ViT-B-16.pt"
    paths = f"data.root {synthetic.root} data.save_dir {tmp_path / 'log'} model.load_weights {tmp_path / 'best.pth'}"
    return [*paths.split(), *SIZES.split(), "model.vit_pretrained", str(archive), "model.bert_base_path", str(archive)]


def model_of(recipe, words):
    """The model that ``t2ireid test`` evaluates."""
    return build_run(for_testing(load_cfg(f"recipes/{recipe}", words)), Checkpoint.read(words[5])).model


def test_rdes_checkpoint_is_evaluated_by_both_embeddings(words, tmp_path, capsys) -> None:
    best = write_best(tmp_path / "best.pth", rde.weights())
    assert main(["test", "--recipe", "rde", *words]) == 0
    printed = capsys.readouterr().out
    assert "cuhkpedes  t2i" in printed
    state = model_of("rde", words).state_dict()
    for side, layer, linear in (("image", "visul", "fc"), ("text", "texual", "linear")):
        pairs = {"linear.weight": linear + ".weight", "mlp.0.bias": "mlp.layers.0.bias"}
        pairs |= {"mlp.1.running_var": "mlp.bns.0.running_var", "mlp.3.weight": "mlp.layers.1.weight"}
        pairs |= {"mlp.1.num_batches_tracked": "mlp.bns.0.num_batches_tracked"}
        for own, theirs in pairs.items():
            expected = best[f"{layer}_emb_layer.{theirs}"]
            assert torch.equal(state[f"token_selection.{side}.{own}"], expected.to(state["scale"])), own


def test_itselfs_checkpoint_is_evaluated_by_its_global_branch(words, tmp_path, capsys, caplog) -> None:
    """Its other heads are listed as not used; by RDE's recipe the embedding of selected tokens counts too."""
    names = ("classifier_global", "classifier_id_global", "mlp_global.0", "classifier_grab")
    heads = {f"{name}.weight": np.ones((6, tiny.WIDTH)) for name in names} | rde.weights()
    best = write_best(tmp_path / "best.pth", heads)
    assert main(["test", "--recipe", "plain_clip", *words]) == 0
    for name in ("classifier_global.weight", "unexpected (36)"):
        assert name in caplog.text, caplog.text
    assert main(["test", "--recipe", "rde", *words, "model.token_selection.ratio", "0.4"]) == 0
    assert "unexpected (14)" in caplog.text
    state = model_of("plain_clip", words).state_dict()
    assert torch.equal(state["image_adapter.weight"], best["base_model.visual.proj"].T)
