import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torch.nn import functional
from torchvision import transforms as torchvision
from torchvision.transforms import functional as torchvision_functional

from t2ireid_plugin.data.images import normalise, resize
from t2ireid_plugin.data.sampling import seeded
from t2ireid_plugin.data.torchvision_views import simclr_view, two_of_six
from t2ireid_plugin.data.transforms import (
    TRANSFORMS,
    TestTransform,
    TrainTransform,
    change_words,
    color_jitter,
    random_crop,
    random_erase,
    random_patch,
    replace_words,
    swap_sides,
)
from t2ireid_plugin.errors import ConfigError

AUTHORS = [  # misc/data.py of TBPS-CLIP
    torchvision.ColorJitter(0.1, 0.1, 0.1, 0),
    torchvision.RandomRotation(15),
    torchvision.RandomResizedCrop((40, 20), (0.9, 1.0), antialias=True),
    torchvision.RandomGrayscale(),
    torchvision.RandomHorizontalFlip(),
    torchvision.RandomErasing(scale=(0.10, 0.20)),
]


def noise(height=30, width=20, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Resizing


def averaged(pixels, height, width):
    """Area averaging by definition: each new pixel is the mean of the area that it covers."""
    for axis, new in enumerate((height, width)):
        old = pixels.shape[axis]
        starts = np.arange(new)[:, None] * old / new
        covered = np.minimum(starts + old / new, np.arange(old) + 1) - np.maximum(starts, np.arange(old))
        pixels = np.moveaxis(np.tensordot(covered.clip(0) * new / old, pixels, (1, axis)), 0, axis)
    return pixels


@pytest.mark.parametrize(("height", "width"), [(10, 5), (30, 20), (29, 19), (7, 13), (30, 7)])
def test_shrinking_averages_areas(height, width):
    expected = averaged(noise(30, 20).astype(float), height, width)
    assert resize(noise(30, 20), height, width).shape == (height, width, 3)
    assert np.abs(resize(noise(30, 20), height, width) - expected).max() <= 1.01  # rounding


@pytest.mark.parametrize(
    ("height", "width"), [(60, 40), (31, 21), (30, 40), (15, 40), (60, 10), (45, 13), (9, 40), (60, 9)]
)
def test_growing_in_a_direction_is_bilinear(height, width):
    """A direction that shrinks by more than two is averaged before."""
    pixels, averages = noise(30, 20).astype(float), height < 15 or width < 10
    if averages:
        pixels = averaged(pixels, min(height, 30), min(width, 20))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = functional.interpolate(tensor, (height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(resize(noise(30, 20), height, width) - expected).max() <= (1.6 if averages else 1.01)  # rounded twice


def test_train_and_test_transforms_without_random_changes_are_equal(tmp_path):
    Image.fromarray(noise(64, 32)).save(tmp_path / "a.png")
    settings = (24, 16, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    test, train = TestTransform(*settings), TrainTransform(*settings, names=[])
    pixels = test.load(tmp_path / "a.png")
    unchanged, _ = train.change(train.load(tmp_path / "a.png"))
    assert torch.equal(test.tensor(pixels), train.tensor(unchanged))
    expected = (pixels / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.4])
    assert test.tensor(pixels).dtype == torch.float32
    assert test.tensor(pixels).is_contiguous()
    assert np.allclose(test.tensor(pixels).numpy(), expected.transpose(2, 0, 1), atol=1e-6)


# Random changes


def train_transform(*names, **more):
    return TrainTransform(40, 20, [0.5] * 3, [0.5] * 3, names, **more)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_changes_something_determined_by_the_seed(name):
    pixels, texts = noise(40, 20), ("a man with a bag on his left arm and a red coat",)
    more = {"mask_token": "[MASK]", "words": ["car"]} if name in ("mask_words", "change_words") else {}
    transform = train_transform(name, **more)
    runs = [[transform.change(pixels, texts, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert np.array_equal(first[0], second[0])
        assert first[1] == second[1]
    images_change = any(not np.array_equal(image, pixels) for image, _ in runs[0])
    texts_change = any(changed != texts for _, changed in runs[0])
    assert images_change == (not name.endswith("_words"))
    assert texts_change == (name.endswith("_words") or name == "random_flip")
    assert all(image.shape == (40, 20, 3) for image, _ in runs[0])
    assert np.array_equal(pixels, noise(40, 20))  # not changed in place


def test_patches_are_taken_from_the_other_image():
    black, white = np.zeros((40, 20, 3), np.uint8), np.full((40, 20, 3), 255, np.uint8)
    shares = [random_patch(black, white, random.Random(seed)).mean() / 255 for seed in range(50)]
    assert 0 < min(shares) < max(shares) <= 0.5
    assert not black.any()


def test_unknown_names_and_a_missing_mask_token_are_refused():
    with pytest.raises(ConfigError, match=r"data\.transforms: unknown 'random_flap'; valid: random_flip, random_"):
        train_transform("random_flap")
    with pytest.raises(ConfigError, match="mask_words needs a tokenizer with a mask token"):
        train_transform("mask_words")
    with pytest.raises(ConfigError, match="change_words needs a tokenizer with a mask token"):
        train_transform("change_words")


def test_crops_are_shifted_copies():
    pixels = noise(40, 20)
    padded = np.full((44, 24, 3), [1, 2, 3], dtype=np.uint8)
    padded[2:42, 2:22] = pixels
    windows = [padded[top : top + 40, left : left + 20] for top in range(5) for left in range(5)]
    for seed in range(20):
        crop = random_crop(pixels, [1, 2, 3], random.Random(seed))
        assert sum(np.array_equal(window, crop) for window in windows) == 1


def test_jitter_equals_torchvision_for_the_same_factors():
    pixels, factors = noise(40, 20), iter((1.13, 0.91))
    source = SimpleNamespace(uniform=lambda _low, _high: next(factors))
    image = torchvision_functional.adjust_contrast(
        torchvision_functional.adjust_brightness(Image.fromarray(pixels), 1.13), 0.91
    )
    assert np.abs(color_jitter(pixels, source).astype(int) - np.asarray(image, dtype=int)).max() <= 2


def test_erasing_fills_one_rectangle():
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
        ("his left open hand, on her right near the door", "his right open hand, on her left near the door"),
        ("walking to the right behind a woman", "walking to the left behind a woman"),
        ("right hand in a pocket and left hanging", "left hand in a pocket and right hanging"),
        (
            "turned right at the corner, facing left above a wall",
            "turned left at the corner, facing right above a wall",
        ),
        ("the left sleeve of the coat, left open", "the right sleeve of the coat, left open"),
        ("三十岁左右，左手拿包", "三十岁左右，右手拿包"),
        ("", ""),
    ],
)
def test_swapping_left_and_right(text, expected):
    assert swap_sides(text) == expected
    assert swap_sides(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "his jacket is left open",
        "a shirt, Left Unbuttoned, over a tee",
        "the zip is left half-open and the cuffs left slightly undone",
        "a bag left behind on the ground",
        "hair left down",
        "hair left loose around the face",
        "an old man with little hair left.",
        "straps left hanging, shoulders left bare",
        "shorts that end right above the knee",
        "socks right below the knees",
        "right behind a woman and right next to a bus",
        "looking right at the camera, right in front of it",
        "bent at a right angle",
        "it fits all right",
        "an upright man with a bright scarf",
        "大约三十岁左右",
        "1米75左右的男子",
        "左右两侧有口袋，左顾右盼",
    ],
)
def test_words_that_are_not_sides_stay(text):
    assert swap_sides(text) == text


def test_letters_that_only_match_without_case():
    """To `re.IGNORECASE` the dotless and the dotted I equal i, but not to `str.lower`."""
    assert swap_sides("r\u0131ght, R\u0130GHT") == "left, LEFT"


@given(st.text())
def test_swapping_twice_changes_nothing(text):
    sides = ("left", "right", "左", "右")
    swapped = swap_sides(text)
    assert len(swapped) == len(text) or any(side in text.lower() for side in sides)
    if text.islower() or not any(side in text.lower() for side in sides):
        assert swap_sides(swapped) == text


@given(st.text(), st.integers(0, 99))
def test_dropping_words_keeps_the_order_and_at_least_one(text, seed):
    rest = replace_words(text, "", random.Random(seed), chance=0.5)
    letters = iter(text)
    assert all(letter in letters for letter in rest.replace(" ", ""))  # a subsequence
    assert bool(rest.strip()) == bool(text.strip())


def test_a_tenth_of_the_words_is_replaced():
    text = " ".join(f"w{i}" for i in range(50))
    counts = [replace_words(text, "[MASK]", random.Random(seed)).split().count("[MASK]") for seed in range(200)]
    assert 4 < np.mean(counts) < 6  # a tenth of 50
    assert replace_words("一名男子穿红色外套", "[MASK]", random.Random(1), chance=0.5).count("[MASK]") > 1
    assert replace_words("one", "[MASK]", random.Random(0), chance=1.0) == "one"


def test_a_fifth_of_words_and_marks_is_masked_exchanged_and_deleted():
    text = " ".join(["wo-rd"] * 20)  # 60 tokens
    changed = [change_words(text, "mask", ["other"], random.Random(seed)) for seed in range(300)]
    counts = {token: sum(x.replace("-", " - ").split().count(token) for x in changed) for token in ("mask", "other")}
    kept = sum(x.count("wo") + x.count("rd") + x.count("-") for x in changed)
    assert counts["mask"] / (300 * 60) == pytest.approx(0.12, abs=0.01)
    assert counts["other"] / (300 * 60) == pytest.approx(0.04, abs=0.006)
    assert kept / (300 * 60) == pytest.approx(0.8, abs=0.012)
    assert change_words("one", "mask", ["other"], SimpleNamespace(random=lambda: 0.19)) == "one"  # never empty


def test_two_of_six_are_two_draws_of_torchvision_with_the_numbers_of_the_sample():
    drawn = set()
    for seed in range(30):
        state, same = torch.get_rng_state(), random.Random(seed)
        changed = two_of_six(noise(40, 20), random.Random(seed))
        assert torch.equal(torch.get_rng_state(), state)
        numbers = same.choices(range(6), k=2)
        drawn.update(numbers)
        with seeded(same.getrandbits(32)):
            image = torch.from_numpy(noise(40, 20)).permute(2, 0, 1)
            image = AUTHORS[numbers[1]](AUTHORS[numbers[0]](image))
        assert np.array_equal(changed, image.permute(1, 2, 0))
    assert len(drawn) == 6


def test_a_view_for_simclr_is_torchvisions_with_the_numbers_of_the_sample():
    class Blur:
        def __call__(self, image):
            return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    authors = torchvision.Compose(  # misc/data.py of TBPS-CLIP
        [
            torchvision.RandomResizedCrop((40, 20), scale=(0.2, 1.0), antialias=True),
            torchvision.RandomApply([torchvision.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            torchvision.RandomGrayscale(p=0.2),
            torchvision.RandomApply([Blur()], p=0.5),
            torchvision.RandomHorizontalFlip(),
        ]
    )
    for seed in range(8):
        view = simclr_view(noise(50, 30), 40, 20, random.Random(seed))
        with seeded(random.Random(seed).getrandbits(32)):
            assert np.array_equal(view, authors(Image.fromarray(noise(50, 30))))


def test_normalisation_without_pytorch_is_bit_identical():
    transform = TestTransform(30, 20, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    expected = transform.tensor(noise()).numpy()
    assert np.array_equal(normalise(noise(), transform.mean, transform.std), expected)
