import io

import numpy as np
import pytest
from PIL import Image

from capjax.data.images import ImageError, load_image, load_pixels
from tests.helpers.ugly_images import encode

# A picture whose every corner differs: red, green / blue, white.
CORNERS = np.zeros((40, 60, 3), np.uint8)
CORNERS[:20, :30], CORNERS[:20, 30:] = (250, 0, 0), (0, 250, 0)
CORNERS[20:, :30], CORNERS[20:, 30:] = (0, 0, 250), (250, 250, 250)


def test_all_ways_in_give_the_same_pixels(tmp_path):
    content = encode(CORNERS)
    path = tmp_path / "corners.png"
    path.write_bytes(content)
    expected = load_pixels(content, 32)
    assert expected.shape == (32, 32, 3)
    assert expected.dtype == np.uint8
    assert expected.flags.writeable
    for image in (path, str(path), bytearray(content), Image.open(io.BytesIO(content)), CORNERS):
        np.testing.assert_array_equal(load_pixels(image, 32), expected)
    whole = load_image(path)
    assert (whole.mode, whole.size) == ("RGB", (60, 40))
    np.testing.assert_array_equal(whole, CORNERS)
    assert load_pixels(np.full((3, 4), 7, np.uint8), 5).tolist() == [[[7] * 3] * 5] * 5


# EXIF 2.32, 4.6.4: which side of the picture the first stored row is, and which the first column.
STORED = {
    1: lambda p: p,  # top, left
    2: lambda p: p[:, ::-1],  # top, right
    3: lambda p: p[::-1, ::-1],  # bottom, right
    4: lambda p: p[::-1],  # bottom, left
    5: lambda p: p.swapaxes(0, 1),  # left, top
    6: lambda p: p[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda p: p[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(kind, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](CORNERS)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP", "MPO") else {}
    options |= {"save_all": True, "append_images": [stored]} if kind == "MPO" else {}
    pixels = load_pixels(encode(stored, kind, exif=exif, **options), 40).astype(int)
    expected = load_pixels(CORNERS, 40).astype(int)
    corners = np.ix_([5, 34], [5, 34])
    assert np.abs(pixels[corners] - expected[corners]).max() < 40
    # A picture loaded before is upright, and is not turned again.
    again = load_pixels(load_image(encode(stored, kind, exif=exif, **options)), 40)
    np.testing.assert_array_equal(again, pixels)


def test_resize_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    grey = load_pixels(stripes, 8)[:, 1:-1]
    assert 110 < grey.min() <= grey.max() < 145


def test_alpha_lies_over_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 3] = 128
    assert load_pixels(encode(rgba), 4).max() == load_pixels(encode(rgba), 4).min() == 127
    grey_alpha = Image.new("LA", (4, 4), (0, 0))
    assert load_pixels(encode(grey_alpha), 4).min() == 255
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert load_pixels(encode(palette), 4)[0, 0].tolist() == [0, 0, 255]
    assert load_pixels(encode(palette, transparency=1), 4)[0, 0].tolist() == [255] * 3
    assert load_pixels(encode(palette, transparency=b"\xff\x00"), 4)[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    levels = np.array([[129, 257 * 100], [257 * 200, 65535]], np.uint16)
    assert load_pixels(encode(levels, kind), 2)[..., 0].tolist() == [[1, 100], [200, 255]]


def test_other_modes():
    cmyk = Image.fromarray(CORNERS).convert("CMYK")
    pixels = load_pixels(encode(cmyk, "JPEG", quality=95), 40)
    assert np.abs(pixels[5, 5].astype(int) - (250, 0, 0)).max() < 40
    bits = Image.new("1", (3, 3), 1)
    assert load_pixels(encode(bits), 3).min() == 255
    for mode, value in (("F", 0.5), ("I", 1 << 20)):
        with pytest.raises(ImageError, match="no agreed range"):
            load_pixels(encode(Image.new(mode, (3, 3), value), "TIFF"), 3)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "broken.jpg"
    with pytest.raises(ImageError, match=r"broken\.jpg: cannot be read: No such file"):
        load_pixels(path, 8)
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        load_pixels(tmp_path, 8)
    with pytest.raises(ImageError, match="cannot be read"):
        load_pixels("nul\0name.jpg", 8)
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3)).astype(np.uint8)
    whole = encode(noise, "JPEG")
    for content, why in (
        (b"", "empty"),
        (b"no picture at all", "not an image"),
        (b"<html>404 Not Found</html>", "not an image"),
        (whole[: len(whole) // 2], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=rf"broken\.jpg: .*{why}"):
            load_pixels(path, 8)
        with pytest.raises(ImageError, match=rf"^image bytes: .*{why}"):
            load_pixels(content, 8)
        with pytest.raises(ImageError, match=rf"^seven: .*{why}"):
            load_pixels(content, 8, name="seven")


@pytest.mark.parametrize("side", [8_950, 11_000, 60_000])
def test_absurd_sizes_are_refused_by_their_header(side, monkeypatch):
    header = encode(Image.new("1", (1, 1)), "PPM").split(b"\n", 2)
    content = b"\n".join([header[0], b"%d %d" % (side, side), b""])
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="pixels"):
        load_pixels(content, 8)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError, match=r"uint8 \[H, W, 3\]"):
        load_pixels(array, 8)


def test_other_types_and_sizes_are_refused():
    with pytest.raises(ImageError, match="int is not taken"):
        load_pixels(5, 8)
    with pytest.raises(ValueError, match="size"):
        load_pixels(CORNERS, 0)
