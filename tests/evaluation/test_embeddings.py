import numpy as np
import pytest
import torch

from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def model_and_loaders(tiny_settings, tmp_path_factory):
    words = tiny_settings(tmp_path_factory.mktemp("log"), test__batch_size=7)
    cfg = load_cfg(words[1], words[2:])
    engine = build_run(cfg, None)
    return engine.model.eval(), engine.test_loader["cuhkpedes"]


def embed(model_and_loaders, *protocols):
    model, loaders = model_and_loaders
    return embed_target(model, loaders["query"], loaders["gallery"], protocols)


def test_everything_is_what_the_model_says_of_each_item(model_and_loaders):
    model, loaders = model_and_loaders
    found = embed(model_and_loaders, *PROTOCOLS)
    images, queries = loaders["gallery"].dataset, loaders["query"].dataset
    assert found.images.shape == found.cloth_images.shape == (32, 256)
    assert found.captions.shape == found.identity.shape == found.clothing.shape == found.fused.shape == (64, 256)
    assert found.pids.tolist() == [item[1] for item in images.data]
    assert found.camids.tolist() == [item[2] for item in images.data]
    with torch.no_grad():
        for i in (0, 9, 63):
            path, pid, _, _, caption, id_text, cloth_text = queries.data[i]
            photo = images[found.described[i]]
            assert photo["impath"] == path
            assert photo["pid"] == pid
            output = model(photo["img"][None], cloth_instruction=[cloth_text], id_instruction=[caption])
            for name, value in (
                ("captions", output.id_text_embeds),
                ("clothing", output.cloth_text_embeds),
                ("fused", output.fused_embeds),
            ):
                assert torch.allclose(getattr(found, name)[i], value[0], atol=1e-5), name
            assert torch.allclose(found.identity[i], model.encode_text(id_text), atol=1e-5)
            assert torch.allclose(found.images[found.described[i]], output.image_embeds[0], atol=1e-5)
            assert torch.allclose(found.cloth_images[found.described[i]], output.cloth_image_embeds[0], atol=1e-5)


def test_nothing_is_computed_that_nobody_asked_for(model_and_loaders):
    found = embed(model_and_loaders, "t2i")
    assert found.cloth_images is found.fused is found.identity is found.clothing is None
    assert found.captions is not None
    found = embed(model_and_loaders, "i2i")
    assert found.captions is None


def test_one_pass_serves_all(model_and_loaders, monkeypatch):
    """Each image goes through the image encoder once, each kind of text through the text encoder once."""
    model, _ = model_and_loaders
    seen = {"images": 0, "texts": 0}
    image_tokens, encode_text = model._image_tokens, model.encode_text

    def count_images(image):
        seen["images"] += len(image)
        return image_tokens(image)

    def count_texts(texts):
        seen["texts"] += len(texts)
        return encode_text(texts)

    monkeypatch.setattr(model, "_image_tokens", count_images)
    monkeypatch.setattr(model, "encode_text", count_texts)
    embed(model_and_loaders, *PROTOCOLS)
    assert seen == {"images": 32, "texts": 3 * 64}


def test_each_caption_describes_a_photo_of_its_person(model_and_loaders):
    _, loaders = model_and_loaders
    found = embed(model_and_loaders, "t2i")
    assert np.array_equal(found.pids[found.described], [item[1] for item in loaders["query"].dataset.data])


def test_a_fusion_of_tokens_is_what_the_model_says_of_each_pair(tiny_settings, tmp_path):
    words = tiny_settings(tmp_path, test__batch_size=7, model__fusion__type="sequence_mamba")
    cfg = load_cfg(words[1], words[2:])
    engine = build_run(cfg, None)
    model, loaders = engine.model.eval(), engine.test_loader["cuhkpedes"]
    found = embed((model, loaders), "t2i", "ti2i")
    images, queries = loaders["gallery"].dataset, loaders["query"].dataset
    assert found.fused.shape == found.captions.shape == (64, 256)
    with torch.no_grad():
        for i in (0, 1, 30, 63):
            photo = images[found.described[i]]["img"][None]
            output = model(photo, cloth_instruction=["a red coat"], id_instruction=[queries.data[i][4]])
            assert torch.allclose(found.fused[i], output.fused_embeds[0], atol=1e-5)
