from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from benchmarks.literal import LiteralModel
from t2ireid_plugin.errors import ConfigError, EncoderError, InputError
from t2ireid_plugin.modeling.instructions import split_caption
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.modeling.training_passes import forward_masked

FIELDS = (
    "image_embeds", "id_text_embeds", "fused_embeds", "id_logits", "id_embeds", "cloth_embeds", "cloth_text_embeds",
    "cloth_image_embeds", "gate", "gate_weights",
)  # fmt: skip
IDENTITY = ["A tall boy with a backpack.", "A woman."]
CLOTHING = ["A red coat, white shoes and a striped shirt.", "A dark blue dress and a black handbag."]


@pytest.fixture(scope="module")
def model(make):
    """Shared by tests that do not change it."""
    return make.model()


# --- full size --------------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_published_checkpoints(full_model, checkpoint_keys):
    own = {
        name: list(tensor.shape)
        for name, tensor in full_model.state_dict().items()
        if not name.startswith(("visual_encoder.", "text_encoder."))
    }
    assert own == checkpoint_keys


def test_full_size(full_model, make):
    tokens = []
    hook = full_model.disentangle.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0].shape))
    with torch.no_grad():
        out = full_model(make.images(2, 224, 224), CLOTHING, IDENTITY)
    hook.remove()
    assert tokens == [(2, 197, 768)]
    shapes = (2, 256), (2, 256), (2, 256), (2, 8000), (2, 768), (2, 768), (2, 256), (2, 256), (2, 768), (2, 2)
    assert {name: tuple(value.shape) for name, value in out._asdict().items()} == dict(zip(FIELDS, shapes))
    vit, bert = full_model.visual_encoder.config, full_model.text_encoder.config
    assert (vit.image_size, vit.patch_size, vit.num_hidden_layers, vit.num_attention_heads) == (224, 16, 12, 12)
    assert (bert.hidden_size, bert.num_hidden_layers, bert.num_attention_heads) == (768, 12, 12)
    assert full_model.preprocess == (224, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert full_model.scale.tolist() == [1.0]


# --- the whole forward, as the specification's listing has it ---------------------------------------------------------


@pytest.mark.parametrize("text_width", [32, 16])  # 16: another width than the image encoder's
def test_equals_the_listing(make, text_width):
    bert = {"hidden_size": text_width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = make.model(bert_base_path=bert)
    adapter = {name: p for name, p in model.state_dict().items() if name.startswith("text_adapter.")}
    assert list(adapter) == ([] if text_width == 32 else ["text_adapter.weight", "text_adapter.bias"])
    with torch.no_grad():
        out = model(make.images(2), CLOTHING, IDENTITY)
        embeds = model.encode_image(make.images(2)), model.encode_text(IDENTITY)
        if adapter:  # the listing has none; its text encoder shall do the adapter's work
            model.text_adapter = None
            model.text_encoder.register_forward_hook(
                lambda module, args, out: type(out)(F.linear(out.last_hidden_state, *adapter.values()))
            )
        expected = LiteralModel(model).eval()(make.images(2), CLOTHING, IDENTITY)
    assert out._fields == FIELDS
    for name, actual, reference in zip(FIELDS, out, expected, strict=True):
        assert (reference[0] - reference[1]).abs().max() > 1e-3, f"{name} does not distinguish the samples"
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(embeds, tuple(expected[:2]), rtol=0, atol=1e-5)


def test_a_large_batch_of_texts_keeps_its_order(model, captions):
    """Hundreds of texts are encoded in parts, sorted by length."""
    texts = [" ".join(caption.split()[: 1 + i % 9]) for i, caption in enumerate(captions * 5)]
    assert len(texts) > 200
    with torch.no_grad():
        expected = LiteralModel(model).eval().encode_text(texts)
        torch.testing.assert_close(model.encode_text(texts), expected, rtol=0, atol=1e-5)
        out = model(cloth_instruction=texts, id_instruction=texts[::-1])
    torch.testing.assert_close(out.cloth_text_embeds, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.id_text_embeds, expected.flip(0), rtol=0, atol=1e-5)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_one_string_or_several(model):
    with torch.no_grad():
        for text, shape in (("a boy", (256,)), (["a boy"], (1, 256)), (("a boy",), (1, 256)), (IDENTITY, (2, 256))):
            embeds = model.encode_text(text)
            assert embeds.shape == shape
            torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(shape[:-1]), rtol=0, atol=1e-5)
        assert torch.equal(model.encode_text(IDENTITY[0]), model.encode_text(IDENTITY[:1])[0])


def test_forward_keeps_the_batch_dimension_of_one(model, make):
    out = model(make.images(1), "a red coat", "a boy")
    assert [tuple(value.shape) for value in out] == [
        (1, 256), (1, 256), (1, 256), (1, 7), (1, 32), (1, 32), (1, 256), (1, 256), (1, 32), (1, 2),
    ]  # fmt: skip


def test_texts_are_truncated_to_64_tokens(model):
    word = "a "  # one token each; [CLS] and [SEP] leave room for 62
    with torch.no_grad():
        long, longest, shorter = (model.encode_text(word * n) for n in (90, 62, 61))
    assert torch.equal(long, longest)
    assert not torch.equal(longest, shorter)


def count_tokens(model):
    """A list that collects the number of tokens in each pass of the text encoder."""
    seen = []
    embedding = model.text_encoder.get_input_embeddings()
    embedding.register_forward_hook(lambda module, args, output: seen.append(args[0].numel()))
    return seen


def number_of_tokens(model, texts):
    return int(model.text_cache(list(dict.fromkeys(texts)))[1].sum())


@pytest.mark.parametrize("training", [False, True])
def test_a_repeated_text_passes_a_frozen_encoder_once(make, training):
    model = make.model().train(training)
    seen, projected = count_tokens(model), []
    model.shared_mlp.register_forward_hook(lambda module, inputs, output: projected.append(inputs[0]))
    texts = [*IDENTITY, *CLOTHING, *IDENTITY]
    with torch.no_grad():
        out = model(cloth_instruction=texts, id_instruction=texts[::-1])
    assert seen == [number_of_tokens(model, texts)]  # identity and clothing texts in one row, without padding
    assert projected[0].shape[0] == 2 * len(texts)  # batch statistics count every repetition
    same = torch.allclose(out.id_text_embeds[0], out.id_text_embeds[4], rtol=0, atol=1e-6)
    assert same != training  # the dropout after the encoder is drawn for each text


def test_a_trained_encoder_reads_every_repetition(make):
    """Its dropout makes them different; in evaluation there is none."""
    model = make.model(freeze_text=False).train()
    seen = count_tokens(model)
    texts = IDENTITY * 3
    model(cloth_instruction=texts, id_instruction=texts)
    assert sum(seen) == 6 * number_of_tokens(model, IDENTITY)
    seen.clear()
    model.eval()
    with torch.no_grad():
        model(cloth_instruction=texts, id_instruction=texts)
    assert sum(seen) == number_of_tokens(model, IDENTITY)


@pytest.mark.parametrize(
    ("text", "words"),
    [([], "empty"), ("  \n", "empty"), (["a boy", " "], r"\[1\].*empty"), (["a boy", 7], r"\[1\].*int.*7"),
     ([None], r"\[0\].*NoneType"), ({"a": 1}, "dict"), (b"a boy", "bytes")],
)  # fmt: skip
def test_empty_texts_and_other_types_are_refused(model, text, words):
    for attempt in (
        lambda: model.encode_text(text),
        lambda: model(id_instruction=text),
        lambda: model(cloth_instruction=text, id_instruction=IDENTITY),
    ):
        with pytest.raises(InputError, match=words):
            attempt()


def test_differing_numbers_are_named(model, make):
    for inputs, counts in (
        ((make.images(2), CLOTHING, IDENTITY[:1]), "2 in cloth_instruction, 1 in id_instruction, 2 in image"),
        ((make.images(2), "a red coat", None), "1 in cloth_instruction, 2 in image"),
        ((None, CLOTHING, ["a", "b", "c"]), "2 in cloth_instruction, 3 in id_instruction"),
    ):
        with pytest.raises(InputError, match=f"differ: {counts}"):
            model(*inputs)


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_last_dimension_of_one_is_squeezed(model, make):
    images = make.images(2)
    with torch.no_grad():
        assert torch.equal(model.encode_image(images.unsqueeze(-1)), model.encode_image(images))
        assert torch.equal(model.encode_image(images[:1].unsqueeze(-1)), model.encode_image(images[:1]))
        assert torch.equal(model(images.unsqueeze(-1)).id_logits, model(images).id_logits)


def test_other_shapes_are_named(model):
    for shape in ((2, 3, 32, 32, 2), (2, 1, 3, 32, 32), (3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3), (2,)):
        for attempt in (model.encode_image, model):
            with pytest.raises(InputError) as error:
                attempt(torch.zeros(shape))
            assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("photo.jpg", "images: str is not a tensor"),
        (Path("photo.jpg"), "Path is not a tensor"),
        (["photo.jpg"], "list is not a tensor"),
        (Image.new("RGB", (32, 32)), "Image is not a tensor"),
        (np.zeros((1, 3, 32, 32), np.float32), "ndarray is not a tensor"),
        (torch.full((1, 3, 32, 32), 128, dtype=torch.uint8), r"images: torch\.uint8 pixels are not normalised"),
        (torch.full((1, 3, 32, 32), 128), r"torch\.int64 pixels are not normalised"),
    ],
)
def test_anything_but_normalised_pixels_is_refused(model, image, words):
    for attempt in (model.encode_image, model, lambda given: model(given, ["a"], ["a"])):
        with pytest.raises(InputError, match=f"{words}.*`read_images`"):
            attempt(image)


# --- ranking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranking", [Ranking("both", 0.3), Ranking("both", 0.3, "caption")])
def test_scores_by_both_branches_are_weighted_cosines(make, captions, ranking):
    model, images, texts = make.model(), make.images(5), captions[::9]
    model.ranking = ranking
    identity, clothing = zip(*map(split_caption, texts))
    if ranking.clothing == "caption":
        clothing = texts
    with torch.no_grad():
        queries, gallery, out = model.encode_query(texts), model.encode_gallery(images), model(images)
        by_identity = model.encode_text(identity) @ out.image_embeds.T
        by_clothing = model.encode_text(clothing) @ out.cloth_image_embeds.T
        alone = model.encode_query(texts[0])
    assert queries.shape == (len(texts), 512)
    assert gallery.shape == (5, 512)
    torch.testing.assert_close(queries @ gallery.T, 0.3 * by_identity + 0.7 * by_clothing, rtol=0, atol=1e-5)
    for vectors in (queries, gallery):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), rtol=0, atol=1e-5)
    assert alone.shape == (512,)
    torch.testing.assert_close(alone, queries[0], rtol=0, atol=1e-5)


def test_a_side_that_a_caption_lacks_does_not_count(make):
    model, images = make.model(), make.images(3)
    model.ranking = Ranking("both", 0.3)
    with torch.no_grad():
        out = model(images)
        scores = model.encode_query(["He wears a red coat.", "An old woman."]) @ model.encode_gallery(images).T
        by_clothing = model.encode_text("wears a red coat") @ out.cloth_image_embeds.T
        by_identity = model.encode_text("An old woman") @ out.image_embeds.T
    torch.testing.assert_close(scores, torch.stack([0.7 * by_clothing, 0.3 * by_identity]), rtol=0, atol=1e-5)


def test_scores_by_the_caption_are_those_of_one_branch(model, make):
    assert model.ranking == Ranking()
    with torch.no_grad():
        assert torch.equal(model.encode_query(IDENTITY), model.encode_text(IDENTITY))
        assert torch.equal(model.encode_query(IDENTITY[0]), model.encode_text(IDENTITY[0]))
        assert torch.equal(model.encode_gallery(make.images(2)), model.encode_image(make.images(2)))


@pytest.mark.parametrize("by", ["caption", "both"])
def test_queries_and_galleries_refuse_what_encode_text_and_encode_image_refuse(make, by):
    model = make.model()
    model.ranking = Ranking(by)
    for text in ([], " ", ["a boy", 7]):
        with pytest.raises(InputError, match="text"):
            model.encode_query(text)
    for image in ("photo.jpg", torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, 32, 32)):
        with pytest.raises(InputError, match="images"):
            model.encode_gallery(image)


# --- optional inputs and parts ----------------------------------------------------------------------------------------

OF_IMAGE = {"image_embeds", "id_logits", "id_embeds", "cloth_embeds", "cloth_image_embeds", "gate"}


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("cloth", [False, True])
@pytest.mark.parametrize("identity", [False, True])
def test_fields_without_input_are_none(model, make, image, cloth, identity):
    expected = OF_IMAGE if image else set()
    expected = expected | ({"cloth_text_embeds"} if cloth else set()) | ({"id_text_embeds"} if identity else set())
    if image and identity:
        expected |= {"fused_embeds", "gate_weights"}
    inputs = make.images(2), CLOTHING, IDENTITY
    with torch.no_grad():
        out = model(*(value if use else None for value, use in zip(inputs, (image, cloth, identity), strict=True)))
        everything = model(*inputs)
    assert {name for name in FIELDS if getattr(out, name) is not None} == expected
    for name in expected:
        torch.testing.assert_close(getattr(out, name), getattr(everything, name), rtol=0, atol=1e-5)


def test_without_fusion(make, caplog):
    with caplog.at_level("INFO", "t2ireid_plugin"):
        model = make.model(fusion=None)
    assert "scale 1.0000, fusion none" in caplog.text
    out = model(make.images(2), CLOTHING, IDENTITY)
    assert [name for name, value in out._asdict().items() if value is None] == ["fused_embeds", "gate_weights"]
    assert not [name for name in model.state_dict() if name.startswith("fusion")]


def test_a_fusion_of_tokens_reads_the_identity_texts(make, captions):
    """More pairs than one pass of the text encoder, of different lengths, with and without clothing texts."""
    model = make.model(fusion={"type": "sequence_mamba"})
    texts = [" ".join(caption.split()[: 3 + i % 9]) for i, caption in enumerate((captions * 2)[:70])]
    images = make.images(70)
    with torch.no_grad():
        together = model(images, id_instruction=texts)
        with_clothing = model(images, cloth_instruction=texts[::-1], id_instruction=texts)
        for name in ("fused_embeds", "gate_weights", "id_text_embeds"):
            torch.testing.assert_close(getattr(with_clothing, name), getattr(together, name), rtol=0, atol=1e-5)
        for i in (0, 35, 69):
            alone = model(images[i : i + 1], id_instruction=texts[i])
            torch.testing.assert_close(together.fused_embeds[i], alone.fused_embeds[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(together.gate_weights[i], alone.gate_weights[0], rtol=0, atol=1e-5)
    assert model(images[:2]).fused_embeds is None
    with pytest.raises(ConfigError, match="sequence_mamba reads tokens"):
        model.fuse(together.image_embeds, together.id_text_embeds)


def test_part_of_the_fusions_settings(make):
    model = make.model(fusion={"type": "gated_mamba", "num_layers": 1})
    assert type(model.fusion).__name__ == "GatedMambaFusion"
    assert [layer.A_log.shape for layer in model.fusion.mamba_layers] == [(1024, 16)]


def test_heads_and_dropout_are_as_specified(model):
    kinds = [nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    for mlp in (model.image_mlp, model.text_mlp):
        assert [type(layer) for layer in mlp] == kinds
        assert [layer.p for layer in mlp if isinstance(layer, nn.Dropout)] == [0.2, 0.2]
    attentions = {name: m for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    assert {name: (m.num_heads, m.dropout) for name, m in attentions.items()} == {
        "disentangle.id_attn": (4, 0.0),
        "disentangle.cloth_attn": (4, 0.0),
        "disentangle.id_cross_attn": (4, 0.0),
        "disentangle.cloth_cross_attn": (4, 0.0),
        "text_attn": (4, 0.1),
        "fusion.gate_attn": (4, 0.1),
    }


# --- training ---------------------------------------------------------------------------------------------------------


def test_identity_and_clothing_pass_batch_normalisation_as_one_batch(make):
    model = make.model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    projected = []
    model.shared_mlp.register_forward_hook(lambda module, inputs, output: projected.append(output.detach()))
    model(make.images(2), CLOTHING, IDENTITY)
    after = model.state_dict()
    for mlp, batch in zip(("image_mlp", "text_mlp"), projected, strict=True):
        assert batch.shape == (4, 512)
        for name, statistic in (("running_mean", batch.mean(dim=0)), ("running_var", batch.var(dim=0))):
            key = f"{mlp}.0.{name}"
            torch.testing.assert_close(after[key], 0.9 * before[key] + 0.1 * statistic, rtol=0, atol=1e-5)
        for layer in (0, 4):
            assert after[f"{mlp}.{layer}.num_batches_tracked"] == before[f"{mlp}.{layer}.num_batches_tracked"] + 1


def test_a_training_batch_of_one_is_refused(make):
    model = make.model().train()
    for attempt in (
        lambda: model(make.images(1), "a red coat", "a boy"),
        lambda: model(make.images(1)),
        lambda: model.encode_image(make.images(1)),
        lambda: model.encode_text("a boy"),
    ):
        with pytest.raises(InputError, match="batch of 1"):
            attempt()
    model.eval()
    model(make.images(1), "a red coat", "a boy")


def test_a_frozen_text_encoder_stays_as_it_is(make):
    model = make.model().train()
    assert model.training
    assert not any(module.training for module in model.text_encoder.modules())
    assert all(module.training for module in model.visual_encoder.modules())
    assert not any(p.requires_grad for p in model.text_encoder.parameters())
    model.requires_grad_(True)  # as torchreid's open_all_layers does in every epoch
    out = model(make.images(2), CLOTHING, IDENTITY)
    (out.id_text_embeds.sum() + out.cloth_text_embeds.sum()).backward()
    assert all(p.grad is None for p in model.text_encoder.parameters())
    assert model.text_attn.in_proj_weight.grad.abs().max() > 0
    model.eval()
    assert not any(module.training for module in model.modules())


def test_a_text_encoder_that_is_trained(make):
    model = make.model(freeze_text=False).train()
    assert all(module.training for module in model.text_encoder.modules())
    weights = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    (weights * model.encode_text(IDENTITY)).sum().backward()
    assert [name for name, p in model.text_encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    with torch.no_grad():
        assert not model.encode_text(IDENTITY).requires_grad
    assert not model.eval().text_encoder.training


def test_everything_but_the_known_exceptions_learns(make):
    """No gradient: frozen BERT; decision 6's gate; decision 8's scale; decision 7's decay rates; biases of attention's
    keys, which softmax cancels.
    """
    model = make.model()
    out = model(make.images(2), CLOTHING, IDENTITY)
    generator = torch.Generator().manual_seed(0)
    named = out._replace(gate=None, gate_weights=None)
    sum((torch.randn(v.shape, generator=generator) * v).sum() for v in named if v is not None).backward()
    silent = {
        name.removeprefix("fusion.").split(".")[0]
        for name, p in model.named_parameters()
        if (p.grad is None or p.grad.abs().max() < 1e-6) and not name.endswith(("A_log", "k_proj.bias"))
    }
    assert silent == {"text_encoder", "gate", "gate_attn", "scale"}


@pytest.mark.cuda
def test_cuda_equals_cpu(make):
    model = make.model()
    with torch.no_grad():
        expected = model(make.images(2), CLOTHING, IDENTITY)
        actual = model.cuda()(make.images(2), CLOTHING, IDENTITY)  # images on the CPU are moved
    for name, value, reference in zip(FIELDS, actual, expected):
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), reference, rtol=0, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_class": 5}, r"unknown num_class;.*\bnum_classes\b"),
        ({"num_classes": 0}, "num_classes"),
        ({"max_length": 2}, "max_length"),
        ({"max_length": 513}, r"513.*512"),
        ({"fusion": {"type": "attention"}}, "enhanced_mamba.*gated_mamba"),
        ({"fusion": {"layers": 3}}, r"unknown layers;.*\bnum_layers\b"),
        ({"fusion": {"dim": 128}}, r"fusion\.dim: 128.*256"),
        ({"vit_pretrained": {"hiden_size": 8}}, "vit_pretrained: vit: unknown hiden_size"),
    ],
)
def test_settings_that_cannot_work(make, changes, words):
    with pytest.raises(ConfigError, match=words):
        T2IReIDModel(make.config(**changes))


def test_a_random_text_encoder_needs_a_tokenizer(make):
    with pytest.raises(EncoderError, match="learn_wordpiece"):
        T2IReIDModel(make.config(tokenizer=None))


def test_the_same_seed_builds_the_same_model_and_leaves_the_configuration_unchanged(make):
    config = make.config(fusion={"num_layers": 1})
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(T2IReIDModel(config).state_dict())
    assert config == copy
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


# --- masked language modelling ----------------------------------------------------------------------------------------


def test_forward_masked_returns_what_forward_does_and_the_masked_pairs(model, make):
    images = make.images(2)
    with torch.no_grad():
        expected = model(images, CLOTHING, IDENTITY)
        output, pairs = forward_masked(model, images, CLOTHING, IDENTITY, share=0.5)
    for name, value in expected._asdict().items():
        assert torch.equal(getattr(output, name), value), name
    ids, mask = model.text_cache(IDENTITY)
    longest = int(mask.sum(dim=1).max())
    assert torch.equal(pairs["word_mask"], mask[:, :longest])
    hidden = pairs["hidden_words"] >= 0
    assert hidden.any(dim=1).all()
    assert torch.equal(pairs["hidden_words"][hidden], ids[:, :longest][hidden])
    width = model.visual_encoder.config.hidden_size
    assert pairs["word_tokens"].shape == (2, longest, width)
    assert pairs["image_tokens"].shape[::2] == (2, width)


def test_hidden_words_are_hidden_from_the_text_encoder(model, make):
    with torch.no_grad():
        features, batch = model._encode_tokens(model.text_cache.ids(IDENTITY))
        plain, _ = batch.padded(model._attend_tokens(features, batch))
        _, pairs = forward_masked(model, make.images(2), None, IDENTITY, share=1.0)
    assert not torch.allclose(plain, pairs["word_tokens"], atol=1e-3)


# --- pools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disentangle", [{"pool": "mean"}, {"pool": "stripes", "stripes": 3}, {"pool": "attention"}])
def test_the_image_side_can_be_exported(make, disentangle):
    """As one graph of fixed size without Python, from which ONNX is written; 4 rows do not divide into 3 stripes."""

    class Images(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.encode_image(images)

    model, images = make.model(disentangle=disentangle), make.images(2, 64, 32)
    with torch.no_grad():
        program = torch.export.export(Images(model).eval(), (images,))
        torch.testing.assert_close(program.module()(images), model.encode_image(images))
