import contextlib
import io
import os
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from t2ireid_plugin.data.images import decoding_problem, image_problem, is_transparent, read_pixels
from t2ireid_plugin.errors import DataError


def noise(height=30, width=20, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def smooth(height=80, width=32):
    """A picture with smooth areas, as photos have."""
    return Image.fromarray(noise(height // 8, width // 8)).resize((width, height), Image.Resampling.BICUBIC)


def with_thumbnail(jpeg):
    """The JPEG with a smaller one in its EXIF data, end marker included, as cameras write it."""
    part = b"Exif\0\0" + encode(smooth(16, 8), "JPEG")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + jpeg[2:]


JPEG = encode(smooth(), "JPEG", quality=85)


def refusal(file):
    """The one line of the error that reading raises."""
    with pytest.raises(DataError) as error:
        read_pixels(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.sampled_from(["png", "bmp", "tiff"]))
def test_lossless_formats_are_read_exactly(tmp_path_factory, height, width, seed, kind):
    file = tmp_path_factory.getbasetemp() / f"exact.{kind}"
    pixels = noise(height, width, seed=seed)
    Image.fromarray(pixels).save(file)
    assert np.array_equal(read_pixels(file), pixels)


def test_jpeg_is_read_as_by_pillow(tmp_path):
    smooth = np.linspace(0, 255, 64 * 32 * 3).reshape(64, 32, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as pillow:
        expected = np.asarray(pillow.convert("RGB"), dtype=int)
    assert np.abs(read_pixels(tmp_path / "a.jpg").astype(int) - expected).max() <= 3  # rounding of colours


def test_other_colour_modes_become_rgb(tmp_path):
    grey, palette = noise(channels=1), Image.fromarray(noise()).quantize(8)
    for image, expected in (
        (Image.fromarray(grey), np.stack([grey] * 3, axis=2)),
        (palette, np.asarray(palette.convert("RGB"))),
    ):
        image.save(tmp_path / "a.png")
        assert np.array_equal(read_pixels(tmp_path / "a.png"), expected)
    cv2.imwrite(str(tmp_path / "a.png"), noise().astype(np.uint16)[..., ::-1] * 257)
    assert np.abs(read_pixels(tmp_path / "a.png").astype(int) - noise()).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """As by Pillow's own correction."""
    corner = np.zeros((64, 32, 3), dtype=np.uint8)
    corner[:16, :8] = 255  # no two orientations look alike
    corner[:16, 24:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corner).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as pillow:
        expected = np.asarray(ImageOps.exif_transpose(pillow), dtype=int)
    pixels = read_pixels(tmp_path / "a.jpg").astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 3


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
def test_truncated_files_are_refused(tmp_path, kind, share):
    file = tmp_path / f"cut.{kind}"
    Image.fromarray(noise(300, 200)).save(file, quality=95)
    content = file.read_bytes()
    if kind == "jpg":  # with a thumbnail in the EXIF data, which has an end marker too
        thumbnail = b"Exif\0\0" + cv2.imencode(".jpg", noise(8, 8))[1].tobytes()
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + content[2:]
        file.write_bytes(content)
    assert read_pixels(file).shape == (300, 200, 3)
    file.write_bytes(content[: int(len(content) * share)])
    assert refusal(file).endswith("the file is truncated" if kind == "jpg" else "damaged, too large or not an image")


# A BMP that announces 10^10 pixels, more than OpenCV decodes.
HUGE = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 10**5, 10**5, 1, 24, *[0] * 6)


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", HUGE])
def test_files_that_are_not_images_are_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert refusal(tmp_path / "a.jpg").endswith("damaged, too large or not an image")


def test_only_regular_files_are_read(tmp_path):
    assert refusal(tmp_path / "gone.jpg").endswith("(No such file or directory)")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refusal(tmp_path / "pipe.jpg").endswith("(not a file but a pipe, socket or device)")
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate(2**40)  # sparse
    assert "1,099,511,627,776 bytes" in refusal(tmp_path / "huge.jpg")


@given(st.data())
def test_damaged_files_are_decoded_or_refused(tmp_path_factory, data):
    content = bytearray(cv2.imencode(data.draw(st.sampled_from([".jpg", ".png", ".webp"])), noise())[1].tobytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.img"
    file.write_bytes(bytes(content))
    with contextlib.suppress(DataError):
        assert read_pixels(file).shape[2] == 3


# The end of a file


@pytest.mark.parametrize(
    "jpeg",
    [
        JPEG,
        encode(smooth(), "JPEG", progressive=True),
        encode(smooth(), "JPEG", restart_marker_blocks=2),
        encode(smooth().convert("L"), "JPEG", quality=100),
        with_thumbnail(JPEG),
    ],
    ids=["baseline", "progressive", "restarts", "grey", "thumbnail"],
)
def test_a_jpeg_is_complete_at_its_full_length_only(jpeg):
    assert decoding_problem(jpeg) == decoding_problem(jpeg + b"more behind it") == ""
    for length in range(12, len(jpeg)):
        assert decoding_problem(jpeg[:length])


@pytest.mark.parametrize("jpeg", [JPEG, with_thumbnail(JPEG)], ids=["", "thumbnail"])
@pytest.mark.parametrize(
    "behind",
    [bytes(5000), b"\n", b"\0\0\0\x18ftypmp42" + noise(200, 100).tobytes(), JPEG, JPEG[:900], b"\xff" * 5000],
    ids=["padding", "line break", "motion photo", "second picture", "cut picture", "fill bytes"],
)
def test_jpegs_with_anything_behind_their_end_are_read(tmp_path, jpeg, behind):
    (tmp_path / "plain.jpg").write_bytes(jpeg)
    file = tmp_path / "more.jpg"
    file.write_bytes(jpeg + behind)
    assert image_problem(str(file)) == ""
    assert np.array_equal(read_pixels(file), read_pixels(tmp_path / "plain.jpg"))
    file.write_bytes(jpeg[:-200])
    assert image_problem(str(file)) == refusal(file) == f"unreadable image '{file}': the file is truncated"


# Transparency


def on_white(image):
    """The definition: colour times opacity plus white times the rest."""
    pixels = np.asarray(image.convert("RGBA"), dtype=float)
    share = pixels[..., 3:] / 255
    return share * pixels[..., :3] + (1 - share) * 255


PALETTE = Image.fromarray(noise()).quantize(8)
LOSSLESS = {
    "RGBA in PNG": (Image.fromarray(noise(channels=4)), "PNG", {}),
    "grey in PNG": (Image.fromarray(noise(channels=4)).convert("LA"), "PNG", {}),
    "palette in PNG": (PALETTE, "PNG", {"transparency": bytes([0, 100, 255])}),
    "one colour in PNG": (PALETTE, "PNG", {"transparency": 3}),
    "WebP": (Image.fromarray(noise(channels=4)), "WEBP", {"lossless": True, "exact": True}),
    "TIFF": (Image.fromarray(noise(channels=4)), "TIFF", {}),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_transparent_pixels_are_white(tmp_path, name):
    image, kind, options = LOSSLESS[name]
    data = encode(image, kind, **options)
    (tmp_path / "a.img").write_bytes(data)
    with Image.open(io.BytesIO(data)) as written:
        assert np.abs(read_pixels(tmp_path / "a.img") - on_white(written)).max() <= 1
    assert is_transparent(data)


def test_transparent_lossy_webp_is_white_with_its_orientation(tmp_path):
    image = Image.merge("RGBA", (*smooth().split(), Image.linear_gradient("L").resize((32, 80))))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(image, "WEBP", quality=100, exif=exif)
    (tmp_path / "a.webp").write_bytes(data)
    with Image.open(io.BytesIO(data)) as written:
        assert np.abs(read_pixels(tmp_path / "a.webp") - on_white(written.rotate(-90, expand=True))).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_an_opaque_alpha_channel_changes_nothing(tmp_path, kind):
    for name, image in (("plain", Image.fromarray(noise())), ("alpha", Image.fromarray(noise()).convert("RGBA"))):
        (tmp_path / name).write_bytes(data := encode(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(read_pixels(tmp_path / "alpha"), read_pixels(tmp_path / "plain"))
    assert not is_transparent(data)


def test_truncated_transparent_files_are_refused(tmp_path):
    data = encode(Image.fromarray(noise(100, 100, 4)), "PNG")
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    assert refusal(tmp_path / "a.png").endswith("damaged, too large or not an image")
