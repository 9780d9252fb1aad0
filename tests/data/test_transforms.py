import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchreid import data as torchreid_data

from t2ireid_plugin.data.transforms import TRANSFORMS, read_image
from t2ireid_plugin.errors import DataError


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


def test_torchreid_does_something_for_every_transform_that_we_offer():
    """It ignores names that it does not know, so each must change what it builds."""
    build_transforms = torchreid_data.transforms.build_transforms
    plain, _ = build_transforms(32, 16, transforms=[])
    for name in TRANSFORMS:
        with_it, _ = build_transforms(32, 16, transforms=[name])
        assert len(with_it.transforms) > len(plain.transforms), name
