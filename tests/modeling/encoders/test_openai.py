"""OpenAI's archive and IRRA's checkpoint in tiny files of the real formats."""

import pickle
import zipfile

import pytest
import torch
from parity import irra_weights as tiny
from parity.irra_files import TOKENS, write_archive, write_best

from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.modeling.encoders.openai import VOCABULARY, read_archive
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

GRID = {"height": tiny.HEIGHT, "width": tiny.IMAGE_WIDTH, "stride": tiny.STRIDE, "mode": "bilinear"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Tiny ViT-B-16.pt beside its vocabulary."""
    file = tmp_path_factory.mktemp("openai") / "ViT-B-16.pt"
    write_archive(file)
    return file


def model_of(source):
    parts = {"disentangle": {"type": "none"}, "fusion": None, "projection": "encoder", "image_grid": GRID}
    sizes = {"num_classes": tiny.CLASSES, "max_length": tiny.CONTEXT}
    return T2IReIDModel({"vit_pretrained": str(source), "bert_base_path": str(source), **parts, **sizes})


def test_the_tensors_equal_those_of_pytorchs_own_loader(archive) -> None:
    theirs = torch.jit.load(archive).state_dict()
    ours = read_archive(archive)
    assert {*ours} == {*theirs}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_model_is_built_from_the_archive_alone(archive) -> None:
    model, state = model_of(archive), {name: tensor.float() for name, tensor in read_archive(archive).items()}
    assert model.preprocess[:2] == (tiny.HEIGHT, tiny.IMAGE_WIDTH)
    assert torch.equal(model.image_adapter.weight, state["visual.proj"].T)
    assert torch.equal(model.text_adapter.weight, state["text_projection"].T)
    assert torch.equal(model.text_encoder.get_input_embeddings().weight, state["token_embedding.weight"])
    bos, eos = TOKENS["token_embedding.weight"][0] - 2, TOKENS["token_embedding.weight"][0] - 1
    assert model.text_cache.ids(["A man"]) == [(bos, 320, 514, eos)]  # 320 is "a" in CLIP too
    (longest,) = model.text_cache.ids(["man " * 40])
    assert len(longest) == tiny.CONTEXT
    assert longest[-1] == eos
    assert model.encode_image(torch.randn(2, 3, tiny.HEIGHT, tiny.IMAGE_WIDTH)).shape == (2, tiny.WIDTH)


def test_files_that_cannot_be_read_are_refused(archive, tmp_path) -> None:
    class Harm:
        def __reduce__(self):
            return print, ("executed",)

    file = tmp_path / "bad.pt"
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("bad/data.pkl", pickle.dumps(Harm(), protocol=2))
    with pytest.raises(EncoderError, match=r"print' is not part of a CLIP archive; nothing was executed"):
        read_archive(file)
    with pytest.raises(EncoderError, match="no file"):
        model_of(tmp_path / "none.pt")
    alone = tmp_path / "alone.pt"
    alone.write_bytes(archive.read_bytes())
    with pytest.raises(EncoderError, match=VOCABULARY):
        model_of(alone)


def test_the_authors_checkpoint_fills_the_model_and_names_what_is_not_used(archive, tmp_path) -> None:
    state = write_best(tmp_path / "best.pth")
    model = model_of(archive).load_param(tmp_path / "best.pth")
    report = model.load_report
    report.require_complete(tmp_path / "best.pth")
    assert report.missing == ["id_classifier.bias", "id_classifier.weight"]
    assert len(report.unexpected) == len(tiny.shapes()[1])  # the heads, which are the losses'
    assert all(name.startswith("losses.") for name in report.unexpected)
    positions = state["base_model.visual.positional_embedding"]
    (own,) = (t for name, t in model.visual_encoder.state_dict().items() if name.endswith("position_embedding.weight"))
    assert torch.equal(own, positions)
