import contextlib
import functools
import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from tiny_models import transformers_4
from torch import nn
from torchreid import utils

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.checkpoint import model_names, read_checkpoint, read_state_dict


@pytest.fixture
def model(make):
    return make.model(seed=1)


@pytest.fixture(scope="module")
def weights(make):
    """The weights of another tiny model."""
    return make.model(seed=2).state_dict()


@pytest.fixture(scope="module")
def outside(weights, checkpoint_keys):
    """Those that published checkpoints contain, which is all but the encoders."""
    return {name: weights[name] for name in checkpoint_keys}


def assert_holds(model, expected):
    for name, tensor in model.state_dict().items():
        if name in expected:
            assert torch.equal(tensor, expected[name]), name


# --- what loads -------------------------------------------------------------------------------------------------------


def test_a_published_checkpoint_at_full_width(checkpoint_keys, make, tmp_path):
    """Every name and shape of the list, with 8000 classes; only the encoders are small."""
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(3)
        for name, shape in checkpoint_keys.items()
    }
    torch.save({"state_dict": state}, tmp_path / "published.pth")
    small = {"hidden_size": 768, "num_hidden_layers": 1, "intermediate_size": 8}
    vit = {**small, "image_size": 32}
    model = make.model(vit_pretrained=vit, bert_base_path=small, num_classes=8000)
    encoders = {k: v.clone() for k, v in model.state_dict().items() if k not in checkpoint_keys}
    model.load_param(tmp_path / "published.pth")
    report = model.load_report
    assert report.loaded == sorted(checkpoint_keys)
    assert report.missing == sorted(encoders)
    assert report.unexpected == report.mismatched == []
    assert_holds(model, {**state, **encoders})


FORMATS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "iteration": 7},
    "state_dict module": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    "parameters": lambda state: {
        "model": {name: nn.Parameter(t) for name, t in state.items() if t.is_floating_point()}
    },
}


@pytest.mark.parametrize("wrap", FORMATS.values(), ids=FORMATS)
def test_formats(model, outside, tmp_path, wrap):
    floating = {name: tensor for name, tensor in outside.items() if tensor.is_floating_point()}
    expected = floating if wrap is FORMATS["parameters"] else outside
    for zipped in (True, False):
        torch.save(wrap(outside), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        assert model.load_param(str(tmp_path / "x.pth")) is model
        assert model.load_report.loaded == sorted(expected)
        assert model.load_report.unexpected == model.load_report.mismatched == []
        assert_holds(model, expected)


def test_safetensors(model, outside, tmp_path):
    save_file({f"module.{name}": tensor for name, tensor in outside.items()}, tmp_path / "x.safetensors")
    model.load_param(tmp_path / "x.safetensors")
    assert model.load_report.loaded == sorted(outside)
    assert_holds(model, outside)


def test_a_checkpoint_that_torchreid_wrote(model, weights, make, tmp_path, capsys):
    """Its rank-1 is a NumPy scalar, which torch's safe loader refuses by default."""
    trained = make.model(seed=2)
    optimizer = torch.optim.AdamW(trained.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    trained(make.images(2)).id_logits.sum().backward()
    optimizer.step()
    for rank1 in (np.float32(0.5), np.float64(0.5), 0.5):
        state = {
            "state_dict": nn.DataParallel(trained).state_dict(),
            "epoch": 3,
            "rank1": rank1,
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        }
        utils.save_checkpoint(state, str(tmp_path))
        file = tmp_path / "model.pth.tar-3"
        model.load_param(file)
        assert model.load_report.loaded == sorted(weights)
        assert model.load_report.missing == model.load_report.unexpected == []
        assert_holds(model, trained.state_dict())
        assert read_checkpoint(file)["rank1"] == 0.5


def test_the_vit_of_transformers_4_loads(model, weights, tmp_path, caplog):
    old = transformers_4(weights)
    assert len(set(old) - set(weights)) == 32  # two layers of 16 tensors
    torch.save(old, tmp_path / "old.pth")
    with caplog.at_level("WARNING"):
        model.load_param(tmp_path / "old.pth")
    assert not caplog.records
    assert model.load_report == (sorted(weights), [], [], [])
    assert_holds(model, weights)
    assert model_names(weights, old) == dict(zip(weights, old, strict=True))
    assert model_names(["module.scale"], old) == {"module.scale": "module.scale"}


# Names in public weights, written with transformers 4, and those of transformers 5.
OTHER_NAMES = {
    "dinov2": {
        "visual_encoder.encoder.layer.1.attention.attention.key.": "visual_encoder.encoder.layer.1.attention.k_proj.",
        "visual_encoder.encoder.layer.1.attention.output.dense.": "visual_encoder.encoder.layer.1.attention.o_proj.",
        "visual_encoder.encoder.layer.1.mlp.fc1.": "visual_encoder.encoder.layer.1.mlp.fc1.",
    },
    "dinov3": {
        "visual_encoder.layer.11.attention.q_proj.": "visual_encoder.model.layer.11.attention.q_proj.",
        "visual_encoder.layer.0.norm1.": "visual_encoder.model.layer.0.norm1.",
        "visual_encoder.norm.": "visual_encoder.norm.",
    },
    "clip": {
        "visual_encoder.vision_model.encoder.layers.3.mlp.fc1.": "visual_encoder.encoder.layers.3.mlp.fc1.",
        "text_encoder.text_model.final_layer_norm.": "text_encoder.final_layer_norm.",
    },
}


@pytest.mark.parametrize("names", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_names_of_other_families(names):
    old, new = [f"{name}bias" for name in names], [f"{name}bias" for name in names.values()]
    assert list(model_names(old, new).values()) == new
    assert list(model_names(new, old).values()) == old
    assert list(model_names([f"backbone.{name}" for name in old], new).values()) == new  # FastReID's


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_names_everything(model, outside, tmp_path, caplog):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor for name, tensor in outside.items() if name not in ("scale", "text_mlp.7.bias")}
    state["id_classifier.weight"] = torch.zeros(11, 32)
    state["id_classifier.bias"] = torch.zeros(11)
    state["head.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "x.pth")
    with caplog.at_level("WARNING"):
        model.load_param(tmp_path / "x.pth")
    report = model.load_report
    encoders = [name for name in before if name.startswith(("visual_encoder.", "text_encoder."))]
    assert report.missing == sorted([*encoders, "scale", "text_mlp.7.bias"])
    assert report.unexpected == ["head.weight"]
    assert report.mismatched == [
        "id_classifier.bias (file [11], model [7])",
        "id_classifier.weight (file [11, 32], model [7, 32])",
    ]
    assert report.loaded == sorted(set(state) - {"id_classifier.weight", "id_classifier.bias", "head.weight"})
    for words in ("scale", "head.weight", "id_classifier.weight (file [11, 32], model [7, 32])"):
        assert words in caplog.text
        assert words in str(report)
    untouched = {*encoders, "scale", "text_mlp.7.bias", "id_classifier.weight", "id_classifier.bias"}
    assert_holds(model, {**outside, **{name: before[name] for name in untouched}})


def test_poolers_and_position_ids_are_tolerated(model, weights, tmp_path):
    extra = {
        "visual_encoder.pooler.dense.weight": torch.zeros(32, 32),
        "text_encoder.pooler.dense.bias": torch.zeros(32),
        "text_encoder.embeddings.position_ids": torch.arange(512),
    }
    unexpected = {"text_mlp.pooler.weight": torch.zeros(1)}
    torch.save({**weights, **extra, **unexpected}, tmp_path / "x.pth")
    model.load_param(tmp_path / "x.pth")
    assert model.load_report.unexpected == ["text_mlp.pooler.weight"]
    assert model.load_report.missing == []


# --- what does not load -----------------------------------------------------------------------------------------------

GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def refused(file):
    with pytest.raises(CheckpointError) as error:
        read_state_dict(file)
    assert str(file) in str(error.value)
    return str(error.value)


def test_nothing_matches(model, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({"backbone.conv1.weight": torch.zeros(3), "scale": torch.zeros(4)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"none of the 2 tensors fits.*backbone\.conv1\.weight") as error:
        model.load_param(tmp_path / "other.pth")
    assert str(tmp_path / "other.pth") in str(error.value)
    assert_holds(model, before)
    assert model.load_report is None


def test_a_missing_file_or_a_folder(model, tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path / "nowhere.safetensors", tmp_path):
        refused(path)
    with pytest.raises(CheckpointError, match="nowhere"):
        model.load_param(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files(tmp_path, suffix):
    for content in (b"", b"hello world, this is a text file\n", b"<html>404</html>", b'{"a": 1}', GIT_LFS_POINTER):
        (tmp_path / f"x{suffix}").write_bytes(content)
        assert "Python objects" not in refused(tmp_path / f"x{suffix}")


@functools.cache  # the older format holds addresses, so that its length varies
def saved(kind):
    buffer = io.BytesIO()
    state = {"scale": torch.ones(1), "fusion.fc.bias": torch.rand(9)}
    if kind == "safetensors":
        return save(state)
    torch.save({"state_dict": state, "epoch": 3}, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file(tmp_path, kind):
    content = saved(kind)
    file = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    file.write_bytes(content)
    read_state_dict(file)
    for length in {*range(0, len(content), 3 if kind == "safetensors" else 29), len(content) - 1}:
        file.write_bytes(content[:length])
        refused(file)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["zip", "legacy"]))
def test_a_flipped_byte_is_refused_or_harmless(tmp_path, data, kind):
    content = bytearray(saved(kind))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file = tmp_path / "x.pth"
    file.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        read_state_dict(file)


def test_a_file_without_weights(tmp_path):
    for content in ({}, {"state_dict": {}}, {"epoch": 3}, [torch.ones(1)], torch.ones(1), 3):
        torch.save(content, tmp_path / "x.pth")
        refused(tmp_path / "x.pth")
