"""Images that claim absurd sizes, never end or are something else."""

import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2ireid_plugin.data.image_size import MOST_PIXELS, claimed_size, size_problem
from t2ireid_plugin.data.transforms import read_pixels
from t2ireid_plugin.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)


def png(width, height):
    """A PNG of this size with almost no data."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def jpeg(width, height):
    """A JPEG of 40 x 24 noise that says it is of this size."""
    content = encoded(".jpg")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def bmp(width, height):
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + sizes


def tiff(width, height):
    """A TIFF of 40 x 24 noise that says it is of this size."""
    content = bytearray(encoded(".tiff"))
    start = struct.unpack_from("<I", content, 4)[0]
    for number in range(struct.unpack_from("<H", content, start)[0]):
        at = start + 2 + 12 * number
        tag = struct.unpack_from("<H", content, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HIH", content, at + 2, 4, 1, 0)
            struct.pack_into("<I", content, at + 8, width if tag == 256 else height)
    return bytes(content)


def webp(width, height):
    """An extended WebP with nothing behind its header."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def encoded(suffix, *options):
    return cv2.imencode(suffix, NOISE, list(options))[1].tobytes()


def refusal(path):
    with pytest.raises(DataError) as error:
        read_pixels(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("write", "width", "height"),
    [
        (png, 100_000, 100_000),
        (png, 30_000, 30_000),
        (jpeg, 65_500, 65_500),
        (jpeg, 30_000, 30_000),
        (bmp, 100_000, 100_000),
        (bmp, 30_000, 30_000),
        (tiff, 100_000, 100_000),
        (tiff, 30_000, 30_000),
    ],
)
def test_an_absurd_size_is_named_and_not_allocated(tmp_path, write, width, height):
    (tmp_path / "x.img").write_bytes(write(width, height))
    assert len(write(width, height)) < 10_000
    text = refusal(tmp_path / "x.img")
    assert text == (
        f"unreadable image '{tmp_path / 'x.img'}': it claims {width} x {height} pixels, more than the 100,000,000 taken"
    )


def test_a_webp_of_absurd_size(tmp_path):
    """It cannot claim more than 2**24 each way; Pillow refuses this one, which has no picture, in its own way."""
    (tmp_path / "x.webp").write_bytes(webp(2**24, 2**24))
    assert refusal(tmp_path / "x.webp").startswith(f"unreadable image '{tmp_path / 'x.webp'}': ")


def test_reading_an_absurd_image_takes_no_memory(tmp_path):
    """30,000 x 30,000 pixels would be 2.7 GB."""
    names = []
    for number, write in enumerate((png, jpeg, bmp, tiff)):
        names.append(str(tmp_path / f"{number}"))
        (tmp_path / f"{number}").write_bytes(write(30_000, 30_000))
    (tmp_path / "4.ppm").write_bytes(b"P6 30000 30000 255\n" + bytes(100))
    (tmp_path / "5.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 30000\n" + bytes(100))
    names += [str(tmp_path / "4.ppm"), str(tmp_path / "5.hdr")]
    program = (
        "import resource, sys\n"
        "from t2ireid_plugin.data.transforms import read_pixels\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        read_pixels(name)\n"
        "    except ValueError as error:\n"
        "        assert 'unreadable image' in str(error)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50 * 1024  # of 1024 bytes


def test_a_jpeg_with_more_scans_than_anybody_needs(tmp_path):
    """Each scan is a pass over all pixels, and takes a dozen bytes of the file."""
    content = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert size_problem(content) == ""
    last = content.rindex(b"\xff\xda")
    (tmp_path / "x.jpg").write_bytes(content[:last] + content[last:-2] * 120 + content[-2:])
    assert "more than 100 scans" in refusal(tmp_path / "x.jpg")


def test_what_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    for name in ("pipe.png", "endless.png"):
        assert refusal(tmp_path / name).endswith("(not a file but a pipe, socket or device)")
    assert "missing image" in refusal(tmp_path / "round.png")
    assert "no file can have this name" in refusal("a\0b.png")
    assert "no file can have this name" in refusal("\ud800.png")
    assert len(refusal("a" * 5000)) < 2500


def test_an_endless_file_is_not_read(tmp_path):
    with (tmp_path / "x.png").open("wb") as stream:
        stream.truncate(2**40)  # a hole: takes no space
    assert "its 1,099,511,627,776 bytes are more than the 1,073,741,824 taken" in refusal(tmp_path / "x.png")


def as_pil_writes(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP"]),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    noise=st.binary(max_size=40),
)
def test_sizes_are_what_the_decoders_find(width, height, kind, mode, progressive, noise):
    """Of our own two headers and of Pillow's three: sizes over a limit of just less are refused, under it taken."""
    image = Image.new(mode, (width, height), 77)
    thumbnail = as_pil_writes(Image.new("RGB", (9, 7)), "JPEG")
    options = {"JPEG": {"progressive": progressive, "comment": noise, "exif": b"Exif\0\0" + thumbnail}}
    content = as_pil_writes(image, kind, **options.get(kind, {}))
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape == (height, width, 3)
    assert size_problem(content) == ""
    assert claimed_size(content) == (width, height)


@given(st.data())
def test_damage_gives_a_picture_or_a_refusal(tmp_path_factory, data):
    content = bytearray(encoded(data.draw(st.sampled_from([".jpg", ".png", ".bmp", ".tiff", ".webp"]))))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.img"
    file.write_bytes(bytes(content))
    try:
        pixels = read_pixels(file)
    except DataError:
        return
    assert pixels.size <= 3 * MOST_PIXELS


def test_a_link_out_of_the_dataset_is_followed_and_only_pictures_are_read(cuhk, refused, tiny_settings, tmp_path):
    """As a folder of links is how large sets are shared; names in the annotation cannot leave, see its own tests."""
    outside = tmp_path / "elsewhere.png"
    first, second = (cuhk.image(row["file_path"]) for row in cuhk.rows[:2])
    outside.write_bytes(first.read_bytes())
    first.unlink()
    first.symlink_to(outside)
    assert read_pixels(first).shape == read_pixels(outside).shape
    second.unlink()
    second.symlink_to("/etc/passwd")
    words = tiny_settings(tmp_path / "log", train__batch_size=4, sampler__num_instances=2)
    line = refused("train", *words, f"data.root={cuhk.root}")
    assert line == f"unreadable image '{second}': not an image file"
    link = tmp_path / "root"
    link.symlink_to(cuhk.root)
    assert refused("train", *words, f"data.root={link}").endswith("not an image file")
