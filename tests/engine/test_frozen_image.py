"""A frozen image encoder and the cache of its tokens: the same training, without the encoder's passes."""

import json
import signal

import cv2
import numpy as np
import pytest
import torch
from states import saved
from transformers import Dinov2Config, Dinov2Model, ResNetConfig, ResNetModel

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.sampling import seed_all
from t2ireid_plugin.engine import feature_cache
from t2ireid_plugin.engine.build import build_image_features, build_run
from t2ireid_plugin.engine.checks import check_config, check_files, check_recipe, report_image_size
from t2ireid_plugin.engine.feature_cache import ImageFeatureCache
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.huggingface import T2IReIDForRetrieval
from t2ireid_plugin.modeling.encoders.backbones import image_tokens
from t2ireid_plugin.utils.signals import Stopped

ROOM = 10**9
FROZEN = {"model__freeze_image": True, "data__transforms": "[random_flip]", "train__max_epoch": 2}


def make_encoder(seed=0, kind=Dinov2Model):
    torch.manual_seed(seed)
    if kind is ResNetModel:  # a map, whose grid only the encoder knows
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = Dinov2Config(**sizes, image_size=56, patch_size=14)
    return kind(config).eval().requires_grad_(False)


def make_images(count=3, seed=0):
    return torch.randn(count, 3, 56, 42, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def passes(monkeypatch):
    """The number of images in each pass through the encoder."""
    seen = []

    def counted(encoder, images):
        seen.append(len(images))
        return image_tokens(encoder, images)

    monkeypatch.setattr(feature_cache, "image_tokens", counted)
    return seen


@pytest.mark.parametrize("kind", [Dinov2Model, ResNetModel])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_tokens_are_the_encoders_in_half_precision(tmp_path, passes, place, kind):
    encoder, images = make_encoder(kind=kind), make_images()
    cache = ImageFeatureCache(ROOM)
    if place == "disk":
        cache = ImageFeatureCache.on_disk(tmp_path, ROOM, encoder, [lambda image=image: image for image in images])
    expected = image_tokens(encoder, images)
    for order in ([0, 1, 2], [2, 0, 2]):
        tokens, grid = cache(encoder, images[order])
        torch.testing.assert_close(tokens, expected.tokens[order].half().float(), rtol=0, atol=2e-3)
        assert grid == expected.grid
        assert torch.equal(tokens, tokens.half().float())
    assert len(passes) == 3 + 1 + (place == "disk")  # each image, the grid, and the file's shape
    mirrored = cache(encoder, images.flip(-1)).tokens
    assert not torch.allclose(mirrored, tokens, atol=0.05)


def test_an_image_has_the_same_tokens_in_every_batch():
    """So that a resumed run and several processes compute what one run computes."""
    encoder, images = make_encoder(), make_images(5)
    together, alone = ImageFeatureCache(ROOM), ImageFeatureCache(ROOM)
    expected = together(encoder, images).tokens
    assert all(torch.equal(alone(encoder, images[i : i + 1]).tokens[0], expected[i]) for i in range(5))


def test_other_weights_and_other_pixels_have_other_tokens(tmp_path, passes):
    encoder, images = make_encoder(), make_images()
    cache = ImageFeatureCache(ROOM)
    before = cache(encoder, images).tokens
    encoder.load_state_dict(make_encoder(seed=1).state_dict())
    assert not torch.allclose(cache(encoder, images).tokens, before, atol=0.05)
    count = len(passes)
    images[1, 2, 3, 4] += 0.01
    cache(encoder, images)
    assert len(passes) == count + 1
    for model, own in ((encoder, images), (encoder, images + 1), (make_encoder(seed=2), images)):
        ImageFeatureCache.on_disk(tmp_path, ROOM, model, [lambda image=image: image for image in own])
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_memory_and_file_are_bounded(tmp_path, passes, caplog):
    encoder, images = make_encoder(), make_images()
    two = 2 * 2 * 16 * (4 * 3 + 1)
    caches = (
        ImageFeatureCache(two),
        ImageFeatureCache.on_disk(tmp_path, two, encoder, [lambda image=image: image for image in images]),
    )
    assert "data.image_feature_cache: 2 of 3 images fit into data.image_feature_cache_gb" in caplog.text
    for cache in caches:
        for _ in range(2):
            passes.clear()
            tokens = cache(encoder, images).tokens
        assert passes == [1]
        torch.testing.assert_close(tokens, image_tokens(encoder, images).tokens, rtol=0, atol=2e-3)


# In a run


@pytest.fixture
def configure(tiny_settings, tmp_path):
    def make(cache="off", folder="log", **changes):
        words = tiny_settings(
            tmp_path / folder,
            data__image_feature_cache=cache,
            data__image_feature_cache_dir=tmp_path / "cache",
            **{**FROZEN, **changes},
        )
        return load_cfg(words[1], words[2:])

    return make


def rounded(encoder):
    """Rounds an encoder's tokens to half precision, as the cache does."""

    def hook(_module, _inputs, output):
        output.last_hidden_state = output.last_hidden_state.half().float()
        return output

    return encoder.register_forward_hook(hook)


def test_a_step_equals_that_of_an_encoder_whose_tokens_are_rounded(configure):
    losses, gradients = [], []
    for cache in ("off", "memory"):
        cfg = configure(cache)
        engine = build_run(cfg, None)
        engine.use_image_features(build_image_features(cfg, engine))
        encoder = engine.model.visual_encoder
        if cache == "off":
            rounded(encoder)
        engine.epoch = engine.batch_idx = 0
        engine.num_batches = engine.max_epoch = 1
        engine.set_model_mode("train")
        seed_all(0)  # of dropout
        losses.append(engine.train_batch(next(iter(engine.train_loader)))["loss"])
        gradients.append({name: p.grad for name, p in engine.model.named_parameters() if p.grad is not None})
        assert not encoder.training
        assert not any(name.startswith(("visual_encoder.", "text_encoder.")) for name in gradients[-1])
        held = {id(parameter) for group in engine.optimizer.param_groups for parameter in group["params"]}
        assert held.isdisjoint(map(id, encoder.parameters()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-4)


def test_the_same_photo_mirrored_is_in_the_file(configure, passes):
    cfg = configure("disk")
    engine = build_run(cfg, None)
    engine.use_image_features(build_image_features(cfg, engine))
    photos, val = 24 * 4, 8 * 4
    assert len(passes) == 2 * photos + val + 1
    engine.model.image_features(engine.model.visual_encoder, engine.train_loader.dataset[0]["img"][None])
    passes.clear()
    engine.epoch, engine.max_epoch = 0, 1
    engine.train(print_freq=10**9)
    engine.evaluate(engine.val_targets)
    assert passes == []


def test_a_changed_file_is_read_again(configure, tmp_path, passes):
    cfg = configure("memory")
    engine = build_run(cfg, None)
    dataset, cache = engine.train_loader.dataset, ImageFeatureCache(ROOM)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    for image in (pixels, pixels, 255 - pixels):
        cv2.imwrite(str(tmp_path / "photo.png"), image)
        dataset._images = None  # what `data.keep_images` keeps
        cache(engine.model.visual_encoder, dataset.tensor(str(tmp_path / "photo.png"))[None])
    assert len(passes) == 2 + 1  # and the grid


@pytest.fixture(scope="module")
def runs(tiny_settings, tmp_path_factory):
    """Folders of the same training from memory, and from a file, where it was stopped and resumed."""
    base = tmp_path_factory.mktemp("frozen")

    def words(name):
        options = {"data__image_feature_cache": name, "data__image_feature_cache_dir": base / "cache"}
        return tiny_settings(base / name, train__print_freq=1, train__ema_decay=0.5, **options, **FROZEN)

    assert main(["train", *words("memory")]) == 0
    train_batch = TextImageEngine.train_batch

    def stop(engine, data):
        if engine.steps == 8:  # in the second of two epochs
            raise Stopped(signal.SIGTERM)
        return train_batch(engine, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextImageEngine, "train_batch", stop)
        assert main(["train", *words("disk")]) == 128 + signal.SIGTERM
    assert main(["train", "--resume", *words("disk")]) == 0
    return base


@pytest.mark.slow
def test_a_resumed_run_from_a_file_equals_one_from_memory(runs):
    memory, disk = ((runs / name / "metrics.jsonl").read_text() for name in ("memory", "disk"))
    assert memory == disk
    assert saved(runs / "memory", "last.pth")["digest"] == saved(runs / "disk", "last.pth")["digest"]


@pytest.mark.slow
def test_the_encoder_is_unchanged(runs, configure):
    state = saved(runs / "memory", "best.pth")["state_dict"]
    untrained = build_run(configure(), None).model.state_dict()
    names = [name for name in untrained if name.startswith("visual_encoder.")]
    assert names
    assert all(torch.equal(state[name], untrained[name]) for name in names)
    assert not torch.equal(state["shared_mlp.weight"], untrained["shared_mlp.weight"])


@pytest.mark.slow
def test_testing_again_gives_the_same_numbers(runs):
    """The final test does not read the cache."""
    trained = json.loads((runs / "memory" / "results.json").read_text())
    assert main(["test", str(runs / "memory"), "data.save_dir", str(runs / "again")]) == 0
    again = json.loads((runs / "again" / "test" / "cuhkpedes" / "results.json").read_text())
    assert again["metrics"] == trained["metrics"]


@pytest.mark.slow
def test_an_export_stays_frozen(runs, tmp_path):
    assert main(["export", str(runs / "memory"), str(tmp_path / "finder")]) == 0
    model = T2IReIDForRetrieval.from_pretrained(tmp_path / "finder")
    assert not any(parameter.requires_grad for parameter in model.model.visual_encoder.parameters())
    assert not model.train().model.visual_encoder.training


def test_another_size_than_the_encoders_is_said_before_it_is_loaded(configure, capsys):
    report_image_size(configure())
    assert capsys.readouterr().out == ""
    report_image_size(configure(data__height=48))
    printed = capsys.readouterr().out
    assert printed == "Images of 48 x 16 pixels (height x width); the image encoder was built for 32 x 16\n"
    with pytest.raises(ConfigError, match=r"data\.height 50, data\.width 16: .* the nearest size is 48 x 16"):
        check_files(configure(data__height=50))


@pytest.mark.parametrize(
    ("cache", "changes", "message"),
    [
        ("ram", {}, "data.image_feature_cache: unknown 'ram'"),
        ("disk", {"model__freeze_image": False}, "needs model.freeze_image True"),
        ("memory", {"data__transforms": "[random_flip, random_erase]"}, "cannot store images that random_erase"),
        ("memory", {"data__image_feature_cache_gb": 0}, r"image_feature_cache_gb: 0.0 must"),
        ("disk", {"loss__terms__simclr__weight": 0.4}, "cannot store the further views of images that loss 'simclr'"),
    ],
)
def test_settings_that_cannot_work_are_refused(configure, cache, changes, message):
    cfg = configure(cache, **changes)
    with pytest.raises(ConfigError, match=message):
        [check(cfg) for check in (check_config, check_recipe)]
