import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ganjax.data.images import ImageRule, decode, fit_arrays, header
from ganjax.types import InputError


def encode(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content, **rule):
    return decode(io.BytesIO(content), "cat.png", ImageRule(**rule))


def halves(height, width, axis):
    """Black, then white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[(slice(None),) * axis + (slice(pixels.shape[axis] // 2, None),)] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_pixels_come_back_as_they_are(generator, mode, channels):
    pixels = generator.integers(0, 256, (5, 7, channels), dtype=np.uint8)
    content = encode(Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode=None))
    np.testing.assert_array_equal(decoded(content), pixels)
    assert header(io.BytesIO(content), "cat.png") == (5, 7, channels)


def test_crop_keeps_the_middle():
    # 20 wide, 10 high: a square crop cuts 5 columns off on either side, and black meets white
    # in the middle still.
    found = decoded(encode(halves(10, 20, axis=1)), size=(10, 10))
    assert found[:, :5].max() == 0
    assert found[:, 5:].min() == 255


def test_stretch_keeps_everything():
    found = decoded(encode(halves(10, 40, axis=1)), size=(8, 8), resize="stretch")
    assert found.shape == (8, 8, 3)
    assert found[:, :2].max() < 30
    assert found[:, 6:].min() > 225


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pad_adds_black_on_both_sides(channels):
    white = Image.new("RGB", (40, 20), "white")
    found = decoded(encode(white), size=(8, 8), resize="pad", channels=channels)
    assert found.shape == (8, 8, channels)
    assert found[:2].max() == found[6:].max() == 0
    assert found[2:6].min() == 255


def test_shrinking_is_antialiased():
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = decoded(encode(Image.fromarray(checkers)), size=(8, 8))
    # Picking pixels would give 0 or 255.
    assert abs(found.astype(int) - 127).max() <= 6


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1))])
def test_the_exif_orientation_is_applied(orientation, corner):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255  # upper left as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(pixels), "jpeg", exif=exif)
    found = decoded(content)
    assert found.shape == ((32, 16, 1) if orientation == 6 else (16, 32, 1))
    assert found[corner][0] > 200
    assert found[-1 - corner[0], -1 - corner[1]][0] < 50
    assert header(io.BytesIO(content), "cat.jpg") == found.shape


def test_sixteen_bits_keep_the_upper_eight():
    values = np.array([[0, 255, 256], [0x1234, 0x8000, 0xFFFF]], np.uint16)
    found = decoded(encode(Image.fromarray(values)))
    assert found[..., 0].tolist() == [[0, 0, 1], [0x12, 0x80, 0xFF]]


def test_transparent_images_are_laid_on_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = [255, 0, 0, 255]
    content = encode(Image.fromarray(pixels))
    found = decoded(content, channels=3)
    assert found[0, 0].tolist() == [255, 0, 0]
    assert found[1, 1].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(decoded(content), pixels)
    assert decoded(content, channels=1)[1, 1] == [255]


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [
        ("P", "png", 3),
        ("P", "gif", 3),
        ("1", "png", 1),
        ("LA", "png", 4),
        ("CMYK", "jpeg", 3),
        ("YCbCr", "jpeg", 3),
        ("LAB", "tiff", 3),
        ("RGB", "webp", 3),
        ("RGB", "bmp", 3),
    ],
)
def test_every_kind_of_pixel_becomes_eight_bits(mode, kind, channels):
    image = halves(16, 16, axis=0)
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    else:
        image = image.convert(mode)
    found = decoded(encode(image, kind))
    assert found.shape == (16, 16, channels)
    assert found.dtype == np.uint8
    assert int(found[15, 8, 0]) - int(found[0, 8, 0]) > 150
    assert decoded(encode(image, kind), channels=3, size=(4, 4)).shape == (4, 4, 3)


def test_a_palette_with_transparency_has_four_channels():
    image = Image.new("P", (4, 4), 0)
    found = decoded(encode(image, transparency=0))
    assert found.shape == (4, 4, 4)
    assert found[..., 3].max() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is no image"),
        (b"hello", "it is no image"),
        (encode(halves(64, 64, 0), "jpeg")[:500], "[Tt]runcated"),
        (encode(halves(64, 64, 0))[:100], ""),
    ],
)
def test_a_broken_image_is_named(content, reason):
    with pytest.raises(InputError, match=rf"cat\.png cannot be decoded .*{reason}"):
        decoded(content)


@pytest.mark.parametrize("side", [9_600, 20_000, 60_000])
def test_a_decompression_bomb_is_refused(side):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    content = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    )
    content += chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match=r"cat\.png holds more than 90 million pixels"):
        decoded(content)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "tiff", "bmp"])
def test_large_images_are_read_like_others_and_their_files_stay_open(kind, monkeypatch):
    file = io.BytesIO(encode(halves(16, 24, axis=0), kind))
    expected = decode(file, "cat", ImageRule())
    monkeypatch.setattr("ganjax.data.images._LARGE_PIXELS", 10)
    for rule in (ImageRule(), ImageRule((4, 4), 1)):
        file.seek(0)
        assert header(file, "cat") == expected.shape
        file.seek(0)
        found = decode(file, "cat", rule)
        assert found.shape == (expected.shape if rule.size is None else (4, 4, 1))
    file.seek(0)
    np.testing.assert_array_equal(decode(file, "cat", ImageRule()), expected)


def test_floats_are_refused():
    content = encode(Image.fromarray(np.zeros((2, 2), np.float32)), "tiff")
    with pytest.raises(InputError, match=r"cat\.png holds floats"):
        decoded(content)


def test_arrays_follow_the_same_rules_as_files(generator):
    pixels = generator.integers(0, 256, (3, 12, 9, 3), dtype=np.uint8)
    rule = ImageRule((6, 6), 1, "crop")
    found = fit_arrays(pixels, "x", rule)
    for image, expected in zip(found, pixels, strict=True):
        content = encode(Image.fromarray(expected))
        np.testing.assert_array_equal(image, decode(io.BytesIO(content), "x", rule))
