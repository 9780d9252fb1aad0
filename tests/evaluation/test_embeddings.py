import pytest
import torch

from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.composed import composed_queries
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.errors import DataError, InputError
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.protocols import PROTOCOLS
from t2ireid_plugin.modeling.instructions import split_caption


@pytest.fixture(scope="module")
def build(tiny_settings, two_outfits, tmp_path_factory):
    """`build(fusion, text)`: a model with this fusion that ranks by `text`, and loaders of people in two outfits."""

    def build(fusion, text="caption", target="cuhkpedes"):
        options = {
            "data__root": two_outfits,
            "data__targets": target,
            "test__batch_size": 7,
            "model__fusion__type": fusion,
            "data__id_instruction": text,
        }
        words = tiny_settings(tmp_path_factory.mktemp("log"), **options)
        engine = build_run(load_cfg(words[1], words[2:]), None)
        return engine.model.eval(), engine.test_loader[target]

    return build


@pytest.fixture(scope="module")
def model_and_loaders(build):
    return build("enhanced_mamba")


def embed(model_and_loaders, *protocols):
    model, loaders = model_and_loaders
    return embed_target(model, loaders["query"], loaders["gallery"], protocols)


@pytest.mark.parametrize("text", ["caption", "identity"])
@pytest.mark.parametrize("fusion", ["enhanced_mamba", "sequence_mamba"])
def test_embeddings_are_the_models_of_each_item(build, fusion, text):
    model, loaders = model_and_loaders = build(fusion, text)
    if text == "identity":
        model.ranking = model.ranking._replace(weight=0.3)
    e = embed(model_and_loaders, *PROTOCOLS)
    images, queries = loaders["gallery"].dataset, loaders["query"].dataset
    composed = composed_queries(queries.data, images.data)
    for name in ("references", "looks", "gallery_looks"):
        assert getattr(e, name).tolist() == getattr(composed, name).tolist()
    assert e.images.shape == e.cloth_images.shape == (32, 256)
    assert e.captions.shape == e.identity.shape == e.clothing.shape == e.fused.shape == (64, 256)
    assert e.pids.tolist() == [item[1] for item in images.data]
    assert e.camids.tolist() == [item[2] for item in images.data]
    with torch.no_grad():
        for i in (0, 1, 30, 63):
            path, pid, _, _, caption, id_text, cloth_text = queries.data[i]
            photo = images[e.described[i]]
            assert photo["impath"] == path
            assert photo["pid"] == pid
            identity_part, clothing_part = split_caption(caption)
            fused = identity_part if text == "identity" else caption
            output = model(photo["img"][None], cloth_instruction=[cloth_text], id_instruction=[fused])
            assert torch.allclose(e.captions[i], model.encode_text(caption), atol=1e-5)
            assert torch.allclose(e.clothing[i], output.cloth_text_embeds[0], atol=1e-5)
            assert torch.allclose(e.fused[i], output.fused_embeds[0], atol=1e-5)
            if text == "identity":
                assert torch.allclose(e.identity_parts[i], model.encode_text(identity_part), atol=1e-5)
                assert torch.allclose(e.clothing_parts[i], model.encode_text(clothing_part), atol=1e-5)
            reference = images[e.references[i]]["img"][None]
            words = split_caption(cloth_text) if text == "identity" else [cloth_text]
            output_of_composed = model(reference, id_instruction=[words[0]])
            assert torch.allclose(e.composed_fused[i], output_of_composed.fused_embeds[0], atol=1e-5)
            if text == "identity":
                assert not e.identity_words[i].any()  # left out, as a clothing text says nothing about the identity
                assert torch.allclose(e.clothing_words[i], model.encode_text(words[1]), atol=1e-5)
                joined = model.ranking.join(e.identity_words[i], e.clothing_words[i])
                assert torch.allclose(joined, model.encode_query(cloth_text), atol=1e-5)
            assert torch.allclose(e.queries[i], model.encode_query(caption), atol=1e-5)
            assert torch.allclose(e.gallery[e.described[i]], model.encode_gallery(photo["img"][None])[0], atol=1e-5)
            assert torch.allclose(e.identity[i], model.encode_text(id_text), atol=1e-5)
            assert torch.allclose(e.images[e.described[i]], output.image_embeds[0], atol=1e-5)
            assert torch.allclose(e.cloth_images[e.described[i]], output.cloth_image_embeds[0], atol=1e-5)


@pytest.mark.parametrize("fusion", ["enhanced_mamba", "sequence_mamba"])
def test_photos_of_queries_that_are_not_searched(build, fusion):
    """ITCPR: composed and ti2i queries show photos of their own, by the model's outputs one by one."""
    model, loaders = build(fusion, target="itcpr")
    references = loaders["references"].dataset
    e = embed_target(
        model, loaders["query"], loaders["gallery"], ["ti2i", "composed"], references=loaders["references"]
    )
    queries, gallery = loaders["query"].dataset, loaders["gallery"].dataset
    assert (len(queries), len(gallery), len(references)) == (16, 48, 16)
    assert len(e.images) == 64
    assert e.query_pids.tolist() == [item[1] for item in queries.data]
    with torch.no_grad():
        for i in (0, 7, 15):
            path, _, _, _, caption, _, clothing = queries.data[i]
            assert caption == clothing
            (photo,) = (references[k] for k in range(16) if references.data[k][0] == path)
            fused = model(photo["img"][None], id_instruction=[caption]).fused_embeds[0]
            assert torch.allclose(e.images[e.described[i]], model.encode_image(photo["img"][None])[0], atol=1e-5)
            assert torch.allclose(e.fused[i], fused, atol=1e-5)
            assert torch.allclose(e.composed_fused[i], fused, atol=1e-5)


def test_an_untrained_residual_is_the_plain_sum_and_fuses_both_branches(build):
    """`ti2i` and `composed` of `fusion.type: residual`, before and after training."""
    model, loaders = model_and_loaders = build("residual", "identity")
    model.ranking = model.ranking._replace(weight=0.3)
    e = embed(model_and_loaders, "ti2i", "composed")
    assert e.fused.shape == e.composed_fused.shape == (64, 512)
    for name in ("ti2i", "composed"):
        task, plain = (PROTOCOLS[own].build_task(e, 1.0) for own in (name, f"{name}_sum"))
        assert torch.allclose(task.queries, plain.queries, atol=1e-5)
        assert torch.equal(task.gallery, plain.gallery)
    torch.nn.init.normal_(model.fusion.last.weight, std=0.02)
    e = embed(model_and_loaders, "ti2i", "composed")
    images, queries = loaders["gallery"].dataset, loaders["query"].dataset
    with torch.no_grad():
        for i in (0, 30, 63):
            identity, clothing = split_caption(queries.data[i][-3])
            output = model(images[e.described[i]]["img"][None], [clothing], [identity])
            assert torch.allclose(e.fused[i], output.fused_embeds[0], atol=1e-5)
            assert output.gate_weights is None
            photo, words = model(images[e.references[i]]["img"][None]), split_caption(queries.data[i][-1])[1]
            branches = photo.image_embeds, torch.zeros(1, 256), photo.cloth_image_embeds, model.encode_text([words])
            assert torch.allclose(e.composed_fused[i], model.fuse(*branches)[0][0], atol=1e-5)
    halves = e.fused[:, :256] * 0.3**0.5, e.fused[:, 256:] * 0.7**0.5
    expected = torch.nn.functional.normalize(torch.cat(halves, 1), dim=1)
    assert torch.allclose(PROTOCOLS["ti2i"].build_task(e, 1.0).queries, expected, atol=1e-6)
    assert model(images[0]["img"][None], id_instruction=["a man"]).fused_embeds is None
    with pytest.raises(InputError, match="reads cloth_image_embeds"):
        model.fuse(photo.image_embeds, photo.image_embeds)


def test_only_needed_embeddings_are_computed(model_and_loaders):
    e = embed(model_and_loaders, "t2i")
    assert e.cloth_images is e.fused is e.identity is e.clothing is None
    assert e.captions is not None
    e = embed(model_and_loaders, "i2i")
    assert e.captions is e.looks is None


def test_people_in_one_outfit_are_refused_before_training(tiny_settings, tmp_path):
    words = tiny_settings(tmp_path, test__protocols="[t2i, composed]")
    with pytest.raises(DataError, match=r"test\.protocols composed, cuhkpedes: .* photos in two outfits"):
        build_run(load_cfg(words[1], words[2:]), None)


def test_each_image_and_text_is_encoded_once(model_and_loaders, monkeypatch):
    model, loaders = model_and_loaders
    columns = ("caption", "id_text", "cloth_text")
    distinct = sum(len({text for column in columns for text in batch[column]}) for batch in loaders["query"])
    counts = {"images": 0, "texts": 0}
    encode_image, encode_text = model._encode_image, model.encode_text

    def count_images(image):
        counts["images"] += len(image)
        return encode_image(image)

    def count_texts(texts):
        counts["texts"] += len(texts)
        return encode_text(texts)

    monkeypatch.setattr(model, "_encode_image", count_images)
    monkeypatch.setattr(model, "encode_text", count_texts)
    embed(model_and_loaders, *PROTOCOLS)
    assert counts == {"images": 32, "texts": distinct}
