"""An artefact's runner sees of an image what capjax sees."""

import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from capjax.artefact.images import ImageError, open_image
from capjax.artefact.runner import Artefact
from capjax.data import images
from capjax.data.resize import Resize, to_square
from tests.helpers import ugly_images
from tests.helpers.ugly_images import PICTURE, encode, exif

FILES = {
    name: content
    for name, content in {**ugly_images.whole_files(), **ugly_images.odd_files()}.items()
    if "16 bits" not in name
}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
RESIZES = [
    Resize(8),
    Resize(9, resize_to=14, keep_aspect=True, round_crop=True),
    Resize(9, resize_to=14, keep_aspect=True, interpolation="bicubic"),
    Resize(8, resize_to=11, antialias=False),
]


def same(content):
    """Asserts that both read the same, or that both refuse it."""
    try:
        expected = images.load_image(content)
    except images.ImageError:
        with pytest.raises(ImageError):
            open_image(content)
        return
    np.testing.assert_array_equal(open_image(content), expected)


@pytest.mark.parametrize("kind", FILES)
def test_files_are_read_the_same(kind):
    same(FILES[kind])


def test_all_modes_turns_and_depths_are_read_the_same(tmp_path):
    tall = PICTURE.resize((13, 21))
    for mode in MODES:
        hsv = tall.convert("RGBA") if mode == "RGBa" else tall
        same(hsv.convert(mode))
    for turn in range(10):
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            same(encode(tall, kind, exif=exif(turn)))
    for mode in ("1", "L", "CMYK", "RGBA", "LAB", "YCbCr"):
        same(encode(tall.convert(mode), "TIFF"))
    for bits in (1, 2, 4):
        palette = tall.convert("L").quantize(2**bits)
        same(encode(palette, "PNG", bits=bits, transparency=0))
    path = tmp_path / "a.png"
    tall.save(path)
    for way in (path, str(path), np.asarray(tall), np.asarray(tall.convert("L"))):
        same(way)


def colour_of_16_bits():
    """A PNG of 2 x 2, which Pillow reads as 8 bits without a word."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(26))),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_more_than_8_bits_are_refused():
    grey = Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)
    files = [encode(grey, "PNG"), encode(grey, "TIFF"), colour_of_16_bits()]
    for content in (*files, grey, Image.new("F", (2, 2)), Image.new("I", (2, 2))):
        with pytest.raises(ImageError, match="the image: its pixels have more than 8 bits"):
            open_image(content)


@pytest.mark.parametrize("kind", ugly_images.huge_headers())
def test_absurd_sizes_are_refused_by_their_header(kind):
    with pytest.raises(ImageError, match=r"^the image: "):
        open_image(ugly_images.huge_headers()[kind])


def test_what_takes_forever_or_all_memory_is_refused(tmp_path):
    progressive = encode(PICTURE, "JPEG", progressive=True)
    scan = progressive.index(b"\xff\xda")
    bomb = progressive[:scan] + progressive[scan:-2] * 101 + b"\xff\xd9"
    with pytest.raises(ImageError, match="more than 100 scans"):
        open_image(bomb)
    with pytest.raises(ImageError, match="its header is longer than 65536 bytes"):
        open_image(b"P6 #" + b"x" * 70_000 + b"\n2 2 255\n" + bytes(12))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[40000] = tuple(range(1, 5))
    many = encode(PICTURE, "TIFF", tiffinfo=tags)
    place = many.index(struct.pack("<HH", 40000, 3)) + 4
    with pytest.raises(ImageError, match="500000 values of tag 40000"):
        open_image(many[:place] + struct.pack("<I", 500_000) + many[place + 4 :])
    for wrong, says in [
        (b"", "empty"),
        (b"no image", "not an image of a known format"),
        (tmp_path, "is no file"),
        (tmp_path / "none.png", "No such file"),
        (np.zeros((2, 2, 4), np.uint8), "not uint8"),
        (np.zeros(3, np.uint8), "not uint8"),
        (3, "int is no path"),
    ]:
        with pytest.raises(ImageError, match=says):
            open_image(wrong)


@pytest.mark.parametrize("how", RESIZES)
def test_they_become_the_same_squares(how):
    fields = {name: getattr(how, name) for name in Resize.__dataclass_fields__}
    artefact = SimpleNamespace(manifest={"preprocessing": fields})
    artefact._resize = Artefact._resize.__get__(artefact)
    sizes = [(16, 12), (9, 21), (14, 14), (3000, 1), (1, 70)]
    for size in sizes:
        picture = PICTURE.resize(size)
        np.testing.assert_array_equal(Artefact.fit(artefact, picture), to_square(picture, how))
