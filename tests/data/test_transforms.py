import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.nn import functional
from torchvision.transforms import functional as torchvision_functional

from t2ireid_plugin.data.transforms import (
    TRANSFORMS,
    TestTransform,
    TrainTransform,
    color_jitter,
    random_crop,
    random_erase,
    read_pixels,
    replace_words,
    resize,
    swap_sides,
)
from t2ireid_plugin.errors import ConfigError, DataError


def read_image(file):
    return Image.fromarray(read_pixels(file))


def noise(height=30, width=20, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.sampled_from(["png", "bmp", "tiff"]))
def test_lossless_formats_are_read_exactly(tmp_path_factory, height, width, seed, kind):
    file = tmp_path_factory.getbasetemp() / f"exact.{kind}"
    pixels = noise(height, width, seed=seed)
    Image.fromarray(pixels).save(file)
    image = read_image(file)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    smooth = np.linspace(0, 255, 64 * 32 * 3).reshape(64, 32, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as pillow:
        expected = np.asarray(pillow.convert("RGB"), dtype=int)
    # Two decoders may round a colour conversion differently.
    assert np.abs(np.asarray(read_image(tmp_path / "a.jpg"), dtype=int) - expected).max() <= 3


def test_greyscale_becomes_three_equal_channels(tmp_path):
    grey = noise(channels=1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    found = np.asarray(read_image(tmp_path / "grey.png"))
    assert np.array_equal(found, np.stack([grey] * 3, axis=2))


def test_transparency_is_left_out(tmp_path):
    pixels = noise(channels=4)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "alpha.png")), pixels[:, :, :3])


def test_palette_images(tmp_path):
    palette = Image.fromarray(noise()).quantize(8)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "palette.png")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(tmp_path, orientation):
    """Eight ways a camera can be held; Pillow's own correction is the oracle."""
    corner = np.zeros((64, 32, 3), dtype=np.uint8)
    corner[:16, :8] = 255  # white in one corner only, so that no two orientations look alike
    corner[:16, 24:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corner).save(tmp_path / "held.jpg", exif=exif, quality=100, subsampling=0)
    with Image.open(tmp_path / "held.jpg") as pillow:
        expected = np.asarray(ImageOps.exif_transpose(pillow), dtype=int)
    found = np.asarray(read_image(tmp_path / "held.jpg"), dtype=int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
def test_a_file_that_is_cut_short_is_named(tmp_path, kind, share):
    file = tmp_path / f"cut.{kind}"
    Image.fromarray(noise(120, 60)).save(file)
    whole = file.read_bytes()
    assert read_image(file).size == (60, 120)
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="unreadable image") as error:
        read_image(file)
    assert str(file) in str(error.value)


def test_a_jpeg_cut_after_its_thumbnail_is_noticed(tmp_path):
    """The thumbnail in the EXIF data has an end marker too."""
    file = tmp_path / "thumbnail.jpg"
    Image.fromarray(noise(300, 200)).save(file, quality=95)
    whole = file.read_bytes()
    Image.fromarray(noise(8, 8)).save(tmp_path / "small.jpg")
    thumbnail = (tmp_path / "small.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    file.write_bytes(whole[:2] + segment + whole[2:])
    assert read_image(file).size == (200, 300)
    file.write_bytes((whole[:2] + segment + whole[2:])[: len(whole) // 2])
    with pytest.raises(DataError, match="the file is truncated"):
        read_image(file)


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images(tmp_path, content):
    file = tmp_path / "text.jpg"
    file.write_bytes(content)
    with pytest.raises(DataError, match="unreadable image") as error:
        read_image(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"missing image '.*gone\.jpg' \(No such file or directory\)"):
        read_image(tmp_path / "gone.jpg")


# Resizing


@pytest.mark.parametrize(("height", "width"), [(10, 5), (30, 20), (29, 19), (7, 13), (30, 7)])
def test_area_where_it_shrinks(height, width):
    pixels = noise(30, 20)
    expected = _scaled(_scaled(pixels.astype(float), 0, height), 1, width)
    assert resize(pixels, height, width).shape == (height, width, 3)
    assert np.abs(resize(pixels, height, width) - expected).max() <= 1.01  # rounding


@pytest.mark.parametrize(("height", "width"), [(60, 40), (31, 21), (30, 40), (15, 40), (60, 10), (45, 13)])
def test_bilinear_where_it_grows_in_a_direction(height, width):
    pixels = noise(30, 20)
    expected = functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].double(), (height, width), mode="bilinear"
    )
    found = resize(pixels, height, width)
    assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).max() <= 1.01


@pytest.mark.parametrize(("height", "width"), [(9, 40), (60, 9)])
def test_a_direction_that_shrinks_by_more_than_two_is_shrunk_by_area(height, width):
    pixels = noise(30, 20)
    shrunk = _scaled(_scaled(pixels.astype(float), 0, min(height, 30)), 1, min(width, 20))
    expected = _scaled(_scaled(shrunk, 0, height), 1, width)
    assert np.abs(resize(pixels, height, width) - expected).max() <= 1.6  # rounded twice


def _scaled(pixels, axis, new):
    """One direction, by the definition."""
    old = pixels.shape[axis]
    weights = np.zeros((new, old))
    for i in range(new):
        if new <= old:
            start, end = i * old / new, (i + 1) * old / new
            for j in range(old):
                weights[i, j] = max(0, min(end, j + 1) - max(start, j)) / (end - start)
        else:
            centre = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = min(int(centre), old - 2)
            weights[i, low], weights[i, low + 1] = 1 - (centre - low), centre - low
    return np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)


def test_train_and_test_without_random_changes_are_the_same(tmp_path):
    Image.fromarray(noise(64, 32)).save(tmp_path / "a.png")
    settings = (24, 16, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    test, train = TestTransform(*settings), TrainTransform(*settings, names=[])
    pixels = test.load(tmp_path / "a.png")
    assert torch.equal(test(pixels)[0], train(train.load(tmp_path / "a.png"))[0])
    expected = (pixels / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.4])
    assert test(pixels)[0].dtype == torch.float32
    assert test(pixels)[0].is_contiguous()
    assert np.allclose(test(pixels)[0].numpy(), expected.transpose(2, 0, 1), atol=1e-6)


# Random changes


def train_transform(*names, seed=0, **more):
    return TrainTransform(40, 20, [0.5] * 3, [0.5] * 3, names, source=random.Random(seed), **more)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_name_changes_something_and_the_seed_decides_what(name):
    random.seed(0)  # torchreid's patches are drawn from here
    pixels, texts = noise(40, 20), ("a man with a bag on his left arm and a red coat",)
    plain, _ = train_transform()(pixels, texts)
    more = {"mask_token": "[MASK]"} if name == "mask_words" else {}
    runs = [[train_transform(name, seed=seed, **more)(pixels, texts) for seed in range(20)] for _ in range(2)]
    if name == "random_patch":  # it gathers patches before it pastes any
        transform = train_transform(name)
        assert any(
            not torch.equal(transform(noise(40, 20, seed=i))[0], train_transform()(noise(40, 20, seed=i))[0])
            for i in range(150)
        )
        return
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first[0], second[0])
        assert first[1] == second[1]
    images_change = any(not torch.equal(image, plain) for image, _ in runs[0])
    texts_change = any(found != texts for _, found in runs[0])
    assert images_change == (name not in ("drop_words", "mask_words"))
    assert texts_change == (name in ("drop_words", "mask_words", "random_flip"))
    assert all(image.shape == (3, 40, 20) for image, _ in runs[0])
    assert np.array_equal(pixels, noise(40, 20))  # what is kept in memory stays as it is


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"data\.transforms: unknown 'random_flap'; valid: random_flip, random_crop"):
        train_transform("random_flap")


def test_masking_needs_a_mask_token():
    with pytest.raises(ConfigError, match="mask_words needs a tokenizer with a mask token"):
        train_transform("mask_words")


def test_crops_are_shifted_copies():
    pixels = noise(40, 20)
    for seed in range(20):
        crop = random_crop(pixels, [1, 2, 3], random.Random(seed))
        shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if _is_shifted(pixels, crop, dy, dx)]
        assert len(shifts) == 1


def _is_shifted(pixels, crop, dy, dx):
    padded = np.full((44, 24, 3), [1, 2, 3], dtype=np.uint8)
    padded[2:42, 2:22] = pixels
    return np.array_equal(padded[2 + dy : 42 + dy, 2 + dx : 22 + dx], crop)


def test_jitter_is_torchvisions_for_the_same_factors():
    pixels = noise(40, 20)

    class Fixed:
        def __init__(self):
            self.values = iter((1.13, 0.91))

        def uniform(self, _low, _high):
            return next(self.values)

    image = torchvision_functional.adjust_contrast(
        torchvision_functional.adjust_brightness(Image.fromarray(pixels), 1.13), 0.91
    )
    assert np.abs(color_jitter(pixels, Fixed()).astype(int) - np.asarray(image, dtype=int)).max() <= 2


def test_erasing_paints_one_rectangle_in_the_fill_colour():
    pixels = np.full((60, 30, 3), 9, dtype=np.uint8)
    shares = []
    for seed in range(60):
        erased = (random_erase(pixels, [7, 7, 7], random.Random(seed)) == 7).all(axis=2)
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        assert erased.sum() == len(rows) * len(columns)
        shares.append(erased.mean())
    assert 15 < sum(share > 0 for share in shares) < 45  # every second image
    assert 0.01 < min(share for share in shares if share) < max(shares) < 0.45


# Texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a bag in his left hand", "a bag in his right hand"),
        ("Left sleeve torn, RIGHT one not", "Right sleeve torn, LEFT one not"),
        ("left-handed, facing rightwards", "right-handed, facing leftwards"),
        ("the leftmost of them", "the rightmost of them"),
        ("a bright cleft", "a bright cleft"),
        ("左手拿着包，向右走", "右手拿着包，向左走"),
        ("", ""),
    ],
)
def test_left_and_right(text, expected):
    assert swap_sides(text) == expected
    assert swap_sides(expected) == text


@given(st.text())
def test_exchanging_sides_twice_changes_nothing(text):
    sides = ("left", "right", "左", "右")
    swapped = swap_sides(text)
    assert len(swapped) == len(text) or any(side in text.lower() for side in sides)
    if text.islower() or not any(side in text.lower() for side in sides):
        assert swap_sides(swapped) == text


@given(st.text(), st.integers(0, 99))
def test_dropping_words_keeps_the_order_and_something(text, seed):
    kept = replace_words(text, "", random.Random(seed), chance=0.5)
    words = iter(text)
    assert all(letter in words for letter in kept.replace(" ", ""))  # a subsequence
    assert bool(kept.strip()) == bool(text.strip())


def test_how_many_words_are_replaced():
    text = " ".join(f"w{i}" for i in range(50))
    counts = [replace_words(text, "[MASK]", random.Random(seed)).split().count("[MASK]") for seed in range(200)]
    assert 4 < np.mean(counts) < 6  # a tenth of 50
    assert replace_words("一名男子穿红色外套", "[MASK]", random.Random(1), chance=0.5).count("[MASK]") > 1
    assert replace_words("one", "[MASK]", random.Random(0), chance=1.0) == "one"
