"""Encoders of every family, saved by transformers itself and compared with its own outputs."""

import copy
import functools
import json
from types import SimpleNamespace

import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_models import WIDTH
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from t2ireid_plugin.errors import ConfigError, EncoderError, InputError
from t2ireid_plugin.modeling.encoders.backbones import image_tokens, num_prefix_tokens
from t2ireid_plugin.modeling.encoders.families import layer_numbers, set_attention_dropout
from t2ireid_plugin.modeling.encoders.loading import build_image_encoder, build_text_encoder, build_tokenizer
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.encoders.tokenizer import CachedTokenizer, tokenizer_from_json, tokenizer_to_json
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.visualization.attention import attention_maps

IMAGE = {**WIDTH, "image_size": 32, "patch_size": 8}
LENGTH = 20
TWO_TOWERS = {
    "clip": (CLIPConfig, CLIPModel),
    "siglip": (SiglipConfig, SiglipModel),
    "siglip2": (Siglip2Config, Siglip2Model),
}
ALONE = {
    "vit": (ViTConfig, ViTModel),
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    "dinov3_vit": (DINOv3ViTConfig, DINOv3ViTModel),
}
PREFIX = {"clip": 1, "siglip": 0, "siglip2": 0, "vit": 1, "dinov2": 1, "dinov2_with_registers": 5, "dinov3_vit": 4}
SIZES = [(32, 32), (64, 32), (24, 40), (16, 64)]  # the last has as many patches as the first, at other positions


@pytest.fixture(scope="module")
def saved(captions, tmp_path_factory, make):
    """`saved(family)`: the folder, and the whole model in it with all weights stirred, in eval mode."""

    @functools.cache
    def save(family):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("towers") / family
        model = two_towers(family, folder, captions) if family in TWO_TOWERS else alone(family)
        make.stir(model).eval().save_pretrained(folder)
        return SimpleNamespace(folder=folder, model=model)

    return save


def two_towers(family, folder, captions):
    learner = CLIPTokenizer() if family == "clip" else Siglip2Tokenizer()
    tokenizer = learner.train_new_from_iterator(captions, 400, show_progress=False)
    tokenizer.save_pretrained(folder)
    text = {**WIDTH, "hidden_size": 24, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    if family != "clip":
        text["projection_size"] = 32
    config, model = TWO_TOWERS[family]
    patches = {**WIDTH, "patch_size": 8, "num_patches": 16} if family == "siglip2" else IMAGE
    return model(config(vision_config=patches, text_config=text))


def alone(family):
    config, model = ALONE[family]
    registers = {"dinov2_with_registers": 4, "dinov3_vit": 3}
    more = {"num_register_tokens": registers[family]} if family in registers else {}
    if family.startswith("dinov2"):  # its width of the MLP is a ratio
        more["mlp_ratio"] = 2
    sizes = {name: value for name, value in IMAGE.items() if "mlp_ratio" not in more or name != "intermediate_size"}
    return model(config(**sizes, **more))


def reference_tokens(family, model, images):
    """Last hidden state after the family's last norm, from the library's model called directly."""
    with torch.no_grad():
        if family == "clip":
            out = model.vision_model(images, interpolate_pos_encoding=True)
            norm = model.vision_model.post_layernorm
            tokens = F.layer_norm(out.last_hidden_state, (32,), norm.weight, norm.bias, norm.eps)
            torch.testing.assert_close(tokens[:, 0], out.pooler_output)  # the library's own use of that norm
            return tokens
        if family == "siglip":
            return model.vision_model(images, interpolate_pos_encoding=True).last_hidden_state
        if family == "siglip2":
            return siglip2_tokens(model, images)
        if family == "vit":
            return model(images, interpolate_pos_encoding=True).last_hidden_state
        return model(images).last_hidden_state


def siglip2_tokens(model, images):
    """From patches of the library's own image processor."""
    height, width = images.shape[2:]
    processor = Siglip2ImageProcessor(
        do_resize=True, do_rescale=False, do_normalize=False, patch_size=8, max_num_patches=height * width // 64
    )
    inputs = processor(images=list(images), return_tensors="pt", input_data_format="channels_first")
    assert inputs["spatial_shapes"].tolist() == [[height // 8, width // 8]] * len(images)
    return model.vision_model(**inputs).last_hidden_state


def images_of(size, n=2):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(1))


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PREFIX)
def test_image_tokens_are_the_librarys(saved, family):
    encoder = build_image_encoder(str(saved(family).folder)).eval()
    assert num_prefix_tokens(encoder) == PREFIX[family]
    for size in SIZES:
        with torch.no_grad():
            tokens = image_tokens(encoder, images_of(size)).tokens
        torch.testing.assert_close(tokens, reference_tokens(family, saved(family).model, images_of(size)))
        assert tokens.shape == (2, PREFIX[family] + size[0] * size[1] // 64, 32)


@pytest.mark.parametrize("family", TWO_TOWERS)
def test_a_folder_with_one_tower(saved, family, tmp_path):
    model, folder = saved(family).model, str(saved(family).folder)
    for part, build in (("vision", build_image_encoder), ("text", build_text_encoder)):
        getattr(model, f"{part}_model").save_pretrained(tmp_path / part)
        one, of_both = build(str(tmp_path / part)), build(folder)
        assert one.config.model_type == of_both.config.model_type == f"{family}_{part}_model"
        assert list(one.state_dict()) == list(of_both.state_dict())
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, of_both.state_dict()[name]), name


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_folder_as_on_the_hub(saved, family, tmp_path):
    """The names in openai's and Google's files, with the position ids that old files contain."""
    whole = saved(family)
    tensors = load_file(whole.folder / "model.safetensors")
    assert tensors.keys() >= {"vision_model.encoder.layers.1.mlp.fc2.bias", "text_model.final_layer_norm.weight"}
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    tensors["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((whole.folder / "config.json").read_text())
    built = image_tokens(build_image_encoder(str(tmp_path)).eval(), images_of((32, 32))).tokens
    torch.testing.assert_close(built, reference_tokens(family, whole.model, images_of((32, 32))))


def test_half_precision_files_load_in_single_precision(saved, tmp_path):
    copy.deepcopy(saved("clip").model).half().save_pretrained(tmp_path)
    for encoder in (build_image_encoder(str(tmp_path)), build_text_encoder(str(tmp_path))):
        assert {tensor.dtype for tensor in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_heads_that_nothing_reads_are_left_out(saved, family):
    """SigLIP pools with an attention head of its own; it would be a tenth of the trained parameters, untrained."""
    folder = str(saved(family).folder)
    for encoder in (build_image_encoder(folder), build_text_encoder(folder)):
        assert not [name for name, _ in encoder.named_parameters() if "head" in name]


def test_the_unused_tower_causes_no_warnings(saved, caplog, capfd):
    build_image_encoder(str(saved("clip").folder))
    assert "UNEXPECTED" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("family", PREFIX)
def test_a_size_that_the_patches_do_not_divide(saved, family):
    encoder = build_image_encoder(str(saved(family).folder))
    for height, width in ((32, 20), (36, 32), (4, 8)):
        message = rf"{height} x {width} pixels .* 8 x 8 patches .*nearest size is \d+ x \d+"
        with pytest.raises(InputError, match=message) as error:
            image_tokens(encoder, images_of((height, width)))
        nearest = [int(word) for word in str(error.value).split("nearest size is ")[1].split(" x ")]
        assert all(n % 8 == 0 and n > 0 and abs(n - s) <= 4 for n, s in zip(nearest, (height, width), strict=True))


def test_the_encoders_own_size_need_not_be_divisible():
    """SigLIP so400m reads 384 pixels in patches of 14 and ignores 6 pixels, as in its training."""
    encoder = build_image_encoder({"model_type": "siglip", **IMAGE, "image_size": 36}).eval()
    with torch.no_grad():
        tokens = image_tokens(encoder, images_of((36, 36))).tokens
        torch.testing.assert_close(tokens, encoder(images_of((36, 36))).last_hidden_state)
    assert tokens.shape == (2, 16, 32)


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3_vit"])
def test_encoders_with_positions_for_tall_images(family):
    """If the library cannot interpolate the positions, the error says so."""
    sizes = {"model_type": family, **IMAGE, "image_size": [64, 16]}
    if family == "dinov2":
        sizes.pop("intermediate_size")
    encoder = build_image_encoder(sizes).eval()
    if family != "dinov2":
        assert image_tokens(encoder, images_of((64, 16))).tokens.shape[0] == 2
    if family == "dinov3_vit":
        assert image_tokens(encoder, images_of((32, 32))).tokens.shape[0] == 2
    else:
        with pytest.raises(InputError, match="positions for 64 x 16 pixels cannot read images of 32 x 32"):
            image_tokens(encoder, images_of((32, 32)))


# --- preprocessing ----------------------------------------------------------------------------------------------------

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # from openai/CLIP
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

NORMALISATION = {
    "clip": (CLIP_MEAN, CLIP_STD), "siglip": HALF, "siglip2": HALF, "vit": HALF,
    "dinov2": IMAGENET, "dinov3_vit": IMAGENET,
}  # fmt: skip


@pytest.mark.parametrize("family", NORMALISATION)
def test_normalisation_without_a_preprocessor_file(saved, family):
    config = saved(family).model.config
    preprocess = image_preprocess(str(saved(family).folder), getattr(config, "vision_config", config))
    assert preprocess == (32, 32, *NORMALISATION[family])


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 48}, (48, 48)),
        ({"size": {"height": 48, "width": 24}}, (48, 24)),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 48}}, (56, 48)),  # DINOv2, CLIP
        ({"size": {"shortest_edge": 64}, "crop_size": 56, "do_center_crop": False}, (64, 64)),
        ({"size": {"longest_edge": 64}}, (32, 32)),
        ({"max_num_patches": 256, "patch_size": 8}, (32, 32)),  # SigLIP 2
    ],
)
def test_the_size_is_the_preprocessors(saved, tmp_path, settings, size):
    settings = {**settings, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    for file, content in (
        ("processor_config.json", {"image_processor": settings, "processor_class": "CLIPProcessor"}),
        ("preprocessor_config.json", settings),
    ):
        (tmp_path / file).write_text(json.dumps(content))
        preprocess = image_preprocess(str(tmp_path), saved("vit").model.config)
        assert preprocess == (*size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        (tmp_path / file).unlink()


def test_positions_for_a_tall_image_set_the_size(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 224, "width": 224}}))
    for source in (str(tmp_path), {}):
        assert image_preprocess(source, ViTConfig(image_size=(384, 128))) == (384, 128, *HALF)


# --- texts ------------------------------------------------------------------------------------------------------------


def ids_of(tokenizer, texts):
    """Padded by the library to the full length, as SigLIP's documentation says."""
    return tokenizer(texts, padding="max_length", max_length=LENGTH, padding_side="right", return_tensors="pt")


@pytest.mark.parametrize("family", TWO_TOWERS)
def test_text_tokens_are_the_librarys(saved, captions, family):
    """Features that reach the model's own layers, for texts of different lengths."""
    whole = saved(family)
    texts = ["A red coat.", "A woman in a white dress"]
    model = model_of(saved, family).eval()
    seen = []
    model.text_encoder.register_forward_hook(
        lambda module, args, kwargs, out: seen.append((kwargs, out)), with_kwargs=True
    )
    with torch.no_grad():
        model.encode_text(texts)
        inputs = ids_of(build_tokenizer(str(whole.folder), model.text_encoder.config.vocab_size), texts)
        # CLIP masks padding; SigLIP was trained without a mask.
        mask = {"attention_mask": inputs["attention_mask"]} if family == "clip" else {}
        expected = whole.model.text_model(input_ids=inputs["input_ids"], **mask).last_hidden_state
    kwargs, out = seen[0]
    length = kwargs["input_ids"].shape[1]
    assert length == (int(inputs["attention_mask"].sum(1).max()) if family == "clip" else LENGTH)
    assert torch.equal(kwargs["input_ids"], inputs["input_ids"][:, :length])
    words = inputs["attention_mask"][:, :length].bool() if family == "clip" else torch.ones(2, LENGTH).bool()
    torch.testing.assert_close(out.last_hidden_state[words], expected[:, :length][words])


def test_lengths_that_a_text_tower_cannot_read(saved):
    with pytest.raises(ConfigError, match=r"max_length: 12 must be 20; siglip_text_model"):
        model_of(saved, "siglip", max_length=12)
    with pytest.raises(ConfigError, match="max_length: 78 exceeds the text encoder's 20 positions"):
        model_of(saved, "clip", max_length=78)


def test_clips_tokenizer_from_vocabulary_and_merges(saved, tmp_path):
    """The files of older folders; a caption begins and ends with CLIP's special tokens, truncated or not."""
    tokenizer = build_tokenizer(str(saved("clip").folder), saved("clip").model.config.text_config.vocab_size)
    content = json.loads((saved("clip").folder / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    again = build_tokenizer(str(tmp_path), len(tokenizer))
    for text in ("A young man wearing a red coat.", "white " * 40):
        ids, _ = CachedTokenizer(again, LENGTH)([text])
        assert torch.equal(ids, CachedTokenizer(tokenizer, LENGTH)([text])[0])
        assert ids[0, 0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id in ids[0, 1:]
    assert tokenizer.decode(ids[0], skip_special_tokens=True).split() == ["white"] * 18


@pytest.mark.parametrize("family", TWO_TOWERS)
def test_tokenizers_survive_json(saved, captions, family):
    tokenizer = build_tokenizer(str(saved(family).folder), saved(family).model.config.text_config.vocab_size)
    again = tokenizer_from_json(tokenizer_to_json(tokenizer))
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    texts = [*captions, "Zürich, 12 红 <pad>", "  "]
    first, second = CachedTokenizer(tokenizer, LENGTH)(texts), CachedTokenizer(again, LENGTH)(texts)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_siglips_sentencepiece_tokenizer(saved, captions, tmp_path):
    """As in google/siglip-base-patch16-224; it has no JSON form, so a checkpoint cannot contain it."""
    with open(tmp_path / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.lower() for text in captions] * 10), model_writer=file, vocab_size=60,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    marks = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(marks))
    reader = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    tokenizer = build_tokenizer(str(tmp_path), reader.vocab_size())
    ids, mask = CachedTokenizer(tokenizer, LENGTH, attends_padding=True)(["A red COAT"])
    spoken = [*reader.encode("a red coat"), 1]
    assert ids[0].tolist() == spoken + [1] * (LENGTH - len(spoken))
    assert mask.all()
    with pytest.raises(EncoderError, match="SiglipTokenizer cannot be stored as JSON"):
        tokenizer_to_json(tokenizer)


# --- the model --------------------------------------------------------------------------------------------------------


def model_of(saved, family, **changes):
    """The tiny model with this family's towers; families without a text tower get CLIP's."""
    text = family if family in TWO_TOWERS else "clip"
    torch.manual_seed(0)
    return T2IReIDModel(
        {
            "vit_pretrained": str(saved(family).folder),
            "bert_base_path": str(saved(text).folder),
            "num_classes": 7,
            "freeze_text": False,
            "max_length": LENGTH,
            **changes,
        }
    )


@pytest.mark.parametrize("family", PREFIX)
def test_every_tower_learns(saved, captions, family):
    """At 64 x 32 each parameter of both towers gets a gradient, except the mask token of DINO."""
    model = model_of(saved, family).train()
    out = model(images_of((64, 32), n=4), captions[:4], captions[4:8])
    assert out.fused_embeds.shape == (4, 256)
    pairs = (out.image_embeds * out.id_text_embeds).sum() + (out.cloth_image_embeds * out.cloth_text_embeds).sum()
    pairs.backward()
    for tower in (model.visual_encoder, model.text_encoder):
        without = {n for n, p in tower.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        # A key's bias adds the same to all scores of a query, so softmax cancels it.
        assert {name for name in without if "mask_token" not in name and "k_proj.bias" not in name} == set()


@pytest.mark.parametrize("family", PREFIX)
def test_attention_maps_cover_only_patches(saved, family):
    """The weights of the last 8 x 4 tokens."""
    model = model_of(saved, family).eval()
    assert num_prefix_tokens(model.visual_encoder) == PREFIX[family]
    maps = attention_maps(model, images_of((64, 32)))
    with torch.no_grad():
        tokens = reference_tokens(family, saved(family).model, images_of((64, 32)))
        weights = model.disentangle.attention_weights(tokens)[0].mean(dim=(1, 2))[:, PREFIX[family] :]
    assert maps.identity.shape == (2, 8, 4)
    expected = (weights / weights.sum(dim=1, keepdim=True)).reshape(2, 8, 4)
    torch.testing.assert_close(maps.identity, expected, atol=1e-5, rtol=1e-4)


def test_only_encoders_with_a_class_token_support_cls(saved):
    for family in ("clip", "dinov3_vit"):
        assert num_prefix_tokens(model_of(saved, family, disentangle={"tokens": "cls"}).visual_encoder) >= 1
    for family in ("siglip", "siglip2"):
        with pytest.raises(ConfigError, match=rf"disentangle\.tokens: 'cls' needs a class token, which {family}"):
            model_of(saved, family, disentangle={"tokens": "cls"})


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_towers_from_an_inline_configuration(family, make, captions):
    """`model_type: clip` with the keys of the tower and a learned vocabulary."""
    image = {"model_type": family, **WIDTH, "patch_size": 8}
    image |= {"num_patches": 16} if family == "siglip2" else {"image_size": 32}
    text = {"model_type": family, **WIDTH, "max_position_embeddings": 64}
    model = make.model(vit_pretrained=image, bert_base_path=text)
    assert model.visual_encoder.config.model_type == f"{family}_vision_model"
    assert model.text_encoder.config.model_type == f"{family}_text_model"
    with torch.no_grad():
        assert model(images_of((64, 32)), captions[:2], captions[2:4]).fused_embeds.shape == (2, 256)


def test_home_is_expanded(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(saved("clip").folder.parent))
    encoder = build_image_encoder("~/clip")
    assert encoder.config.model_type == "clip_vision_model"
    assert image_preprocess("~/clip", encoder.config).mean == pytest.approx(CLIP_MEAN)
    vocab_size = build_text_encoder("~/clip").config.vocab_size
    assert len(build_tokenizer("~/clip", vocab_size)) == vocab_size


# --- layers -----------------------------------------------------------------------------------------------------------

# Beginnings of the names after the blocks of the image and the text encoder, as the library's source has them.
AFTER = {
    "clip": ("post_layernorm.", "final_layer_norm."),
    "siglip": ("post_layernorm.", "final_layer_norm."),
    "siglip2": ("post_layernorm.", "final_layer_norm."),
    "vit": ("layernorm.",),
    "dinov2": ("layernorm.",),
    "dinov2_with_registers": ("layernorm.",),
    "dinov3_vit": ("norm.",),
}


@pytest.mark.parametrize("family", [*AFTER, "bert"])
def test_layers_are_numbered_from_the_embeddings(saved, family):
    if family == "bert":
        encoders = {None: build_text_encoder(BertConfig(**WIDTH, vocab_size=50))}
    else:
        folder = str(saved(family).folder)
        encoders = dict(zip(AFTER[family], (build(folder) for build in (build_image_encoder, build_text_encoder))))
    for after, encoder in encoders.items():
        numbers = layer_numbers(encoder)
        assert set(numbers) == {name for name, _ in encoder.named_parameters()}
        assert set(numbers.values()) == ({0, 1, 2, 3} if after else {0, 1, 2})
        for name, number in numbers.items():
            if name.startswith(("embeddings.", "pre_layrnorm.")):
                assert number == 0, name
            elif after and name.startswith(after):
                assert number == 3, name
            else:
                assert number == 1 + next(int(part) for part in name.split(".") if part.isdigit()), name


def test_an_encoder_without_a_stack_of_blocks():
    shared = build_text_encoder({"model_type": "albert", **WIDTH, "embedding_size": 16}, vocab_size=50)
    with pytest.raises(EncoderError, match="albert has no stack of 2 blocks"):
        layer_numbers(shared)


def test_the_dropout_of_attention_weights_is_the_librarys():
    settings = {**WIDTH, "model_type": "clip_text_model", "vocab_size": 30, "max_position_embeddings": 8}
    torch.manual_seed(0)
    theirs = build_text_encoder({**settings, "attention_dropout": 0.4})
    ours = build_text_encoder(settings)
    ours.load_state_dict(theirs.state_dict())
    set_attention_dropout(ours, 0.4)
    outputs = []
    for encoder in (theirs, ours):
        torch.manual_seed(1)
        outputs.append(encoder.train()(torch.arange(8)[None]).last_hidden_state)
    assert torch.equal(*outputs)
    assert not torch.equal(ours(torch.arange(8)[None]).last_hidden_state, outputs[0])
    with pytest.raises(ConfigError, match=r"model\.text_dropout: 0\.4 needs an encoder such as CLIP's, not bert"):
        set_attention_dropout(build_text_encoder(WIDTH), 0.4)
