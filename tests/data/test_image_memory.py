"""The memory of decoding is bounded by what is decoded; files that would take more are refused."""

import io
import struct
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from capjax.data import images, jpeg
from capjax.data.images import ImageError, decoded, load_image, load_pixels
from capjax.data.memory import Memory
from capjax.data.resize import Resize
from tests.helpers.ugly_images import PICTURE, encode


def tiff(tags, data) -> bytes:
    """A TIFF of tags {number: (type, count, value)}, whose data begin at byte 8."""
    rows = b"".join(struct.pack("<HHII", tag, *row) for tag, row in sorted(tags.items()))
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(tags)) + rows + bytes(4)


def grey_tiff(tile):
    data = zlib.compress(bytes(64))
    sizes = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8}
    return {tag: (4, 1, value) for tag, value in {**sizes, 325: len(data)}.items()}, data


def test_a_tile_is_bounded_as_an_image_is():
    with pytest.raises(ImageError, match="TIFF of 8 x 8 pixels takes 6103 MiB to decode"):
        load_image(tiff(*grey_tiff(40_000)))
    assert load_image(encode(PICTURE, "TIFF", compression="tiff_lzw")).size == PICTURE.size


def test_a_tag_of_a_million_values_is_not_read():
    tags, data = grey_tiff(8)
    content = tiff(tags | {273: (4, 1_000_000, 8)}, data) + bytes(4_000_000)
    with pytest.raises(ImageError, match="1000000 values of tag 273"):
        load_image(content)
    big = b"II+\0" + struct.pack("<HHQQHHQQ", 8, 0, 16, 1, 273, 4, 10**6, 0)
    with pytest.raises(ImageError, match="1000000 values of tag 273"):
        load_image(big)


def test_libtiff_says_nothing_of_its_own(capfd):
    content = bytearray(encode(PICTURE, "TIFF", compression="tiff_adobe_deflate"))
    content[12:60] = bytes(48)
    with pytest.raises(ImageError, match="damaged"):
        load_image(bytes(content), name="a.tif")
    # Pillow logs this one itself.
    tags, data = grey_tiff(8)
    with pytest.raises(ImageError, match="not an image of a known format"):
        load_image(tiff(tags | {277: (3, 1, 65_535)}, data), name="b.tif")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P6 #" + b"x" * 70_000 + b"\n2 2 255\n" + bytes(12), "its header is longer than 65536"),
        (b"P5 2 2" + b" " * 70_000 + b"255\n" + bytes(4), "its header is longer than 65536"),
        (b"P3 2 2 255\n" + b"#\n" * 101 + b"1 " * 12, "takes too long to decode"),
        (b"P2 9 9 255\n" + b"1 " * (9 * 2**19), "takes too long to decode"),
    ],
)
def test_a_pnm_that_is_read_a_byte_at_a_time_is_refused(content, message):
    with pytest.raises(ImageError, match=message):
        load_image(content)
    for whole in (b"P6 # a\n# b\n1 1 255\nabc", b"P4\n8 1\n\xaa", b"P2 1 1 9 #\n 3"):
        assert load_image(whole + bytes(70_000) * (whole[1:2] != b"2")).size[1] == 1


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_of_a_thin_image_no_more_is_enlarged_than_is_seen(shape, monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    made = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *a, **k: made.append(a[1]) or resize(*a, **k))
    how = Resize(224, 256, keep_aspect=True)
    found = load_pixels(levels, how)
    assert made == [(224, 224)]
    # The square is less than a pixel of the middle.
    assert np.abs(found.astype(int) - levels.reshape(-1)[29_999:30_001].mean()).max() < 130
    left, top, right, bottom = how.seen(*shape[::-1])
    assert 0 < right - left <= 2
    assert 0 < bottom - top <= 2


def test_what_is_seen_of_a_long_image_is_the_middle_of_the_whole(monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (30, 900, 3)).astype(np.uint8)
    how = Resize(24, 32, keep_aspect=True, interpolation="bicubic")
    whole = load_pixels(levels, how).astype(int)
    monkeypatch.setattr("capjax.data.resize._MOST_RESIZED", 0)
    assert np.abs(load_pixels(levels, how) - whole).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_what_is_converted_by_strips_is_the_same(mode, monkeypatch):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (37, 20, 4)).astype(np.uint8)
    image = encode(levels if mode == "RGBA" else levels.view(np.uint16)[..., 0])
    whole = np.asarray(load_image(image))
    monkeypatch.setattr(images, "_STRIP", 60)
    np.testing.assert_array_equal(load_image(image), whole)


def test_threads_wait_for_the_memory_that_others_hold():
    memory, inside, most = Memory(10), [], []

    def use(count):
        for _ in range(20):
            with memory.hold(count):
                inside.append(count)
                most.append(sum(inside))
                inside.remove(count)

    threads = [threading.Thread(target=use, args=(count,)) for count in (3, 4, 5, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 80
    assert max(most) <= 10


def test_images_hold_their_part_of_the_memory(monkeypatch):
    memory = Memory(20_000)
    monkeypatch.setattr(images, "MEMORY", memory)
    with decoded(Image.new("RGB", (50, 40))) as picture:
        assert memory._held == 16_000
        assert picture.size == (50, 40)
    assert memory._held == 0
    with pytest.raises(ImageError, match=r"PNG of 60 x 50 pixels takes .* save it smaller"):
        load_image(encode(Image.new("RGB", (60, 50))))
    with pytest.raises(ImageError, match="a side has 65535 at most"):
        load_image(encode(Image.new("1", (1, 70_000))))
    assert memory._held == 0


def test_the_file_is_not_read_into_memory(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(PICTURE) + bytes(30_000_000))
    tracemalloc.start()
    try:
        assert load_image(path).size == PICTURE.size
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_jpeg_of_many_scans_is_refused():
    content = encode(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    scan = content[content.rfind(b"\xff\xc4", 0, content.rfind(b"\xff\xda")) : -2]
    assert load_image(content[:-2] + scan * 50 + content[-2:]).size == (64, 64)
    with pytest.raises(ImageError, match="more than 100 scans"):
        load_image(content[:-2] + scan * 200 + content[-2:])


NOISE = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
NOISE = NOISE.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "quality": 95}])
def test_a_hole_in_a_jpeg_is_seen(options):
    content = encode(NOISE, "JPEG", **options)
    assert jpeg.fault(content) is None
    middle, fifth = len(content) // 2, len(content) // 5
    hole = content[:middle] + bytes(fifth) + content[middle + fifth :]
    with pytest.raises(ImageError, match="damaged JPEG: its pixels are overwritten with zeros"):
        load_image(hole)


def test_zeros_of_a_sound_jpeg_are_no_hole():
    stripes = np.tile(np.array([0, 255], np.uint8), (600, 400))
    found = 0
    for picture in (Image.new("RGB", (900, 900), "white"), Image.fromarray(stripes)):
        for options in ({}, {"optimize": True}, {"progressive": True}, {"quality": 100}):
            content = encode(picture, "JPEG", **options)
            found += bytes(256) in content
            assert load_image(content).size == picture.size
    assert found  # Such zeros there are.
    padded = encode(NOISE, "JPEG", exif=b"Exif\0\0MM\0*" + bytes(999), comment=bytes(999))
    assert load_image(padded + bytes(999)).size == (320, 240)


def test_exif_of_megabytes_is_not_read():
    exif = Image.Exif()
    exif[0x0112] = 6
    for padding, turned in ((10, True), (2**20, False)):
        content = encode(NOISE, "PNG", exif=exif.tobytes() + bytes(padding))
        assert (load_image(content).size == (240, 320)) == turned


def test_a_disk_that_fails_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encode(PICTURE))

    class Failing(io.FileIO):
        def read(self, *_):
            if self.tell() > 40:
                raise OSError(5, "Input/output error")
            return super().read(*_)

    monkeypatch.setattr("builtins.open", lambda path, _: Failing(path))
    with pytest.raises(ImageError, match=r"a\.png: (cannot be read|damaged).*Input/output error"):
        load_image(path)


def test_freed_memory_goes_back_to_the_system():
    load_image(encode(PICTURE))
    assert Image.core.get_block_size() > 32 * 2**20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX.
