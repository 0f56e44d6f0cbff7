"""Files that photographs really come in, against arithmetic or TensorFlow's own decoders."""

import io
import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from capjax.data.images import ImageError, load_image, load_pixels
from tests.helpers.ugly_images import encode

HEIGHT, WIDTH = 48, 64
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
# Smooth, so that JPEG keeps it, and the same nowhere when turned or mirrored.
PICTURE = np.stack([COLUMNS * 4, ROWS * 5, (COLUMNS + ROWS) * 2], -1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def png(levels, bits, colour, *chunks) -> bytes:
    """A PNG of levels [H, W, channels], made by hand; `colour` is the format's colour type."""
    height, width = levels.shape[:2]

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    levels = levels.reshape(height, -1)
    if bits < 8:
        unpacked = np.unpackbits(levels.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
        rows = np.packbits(unpacked.reshape(height, -1), axis=1)
    else:
        rows = levels.astype(">u2" if bits == 16 else np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def tiff(levels, photometric, end="<") -> bytes:
    """A TIFF of 8- or 16-bit levels [H, W] or [H, W, 3], made by hand."""
    height, width, *channels = levels.shape
    (samples,) = channels or (1,)
    bits = levels.dtype.itemsize * 8
    depths = 8 + 2 + 10 * 12 + 4
    start = depths + 2 * samples
    short, long = 3, 4
    entries = [
        (256, short, 1, width),
        (257, short, 1, height),
        (258, short, samples, depths if samples > 1 else bits),
        (259, short, 1, 1),
        (262, short, 1, photometric),
        (273, long, 1, start),
        (277, short, 1, samples),
        (278, short, 1, height),
        (279, long, 1, levels.nbytes),
        (284, short, 1, 1),
    ]
    content = {"<": b"II*\0", ">": b"MM\0*"}[end] + struct.pack(end + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        form = "HHIHxx" if kind == short and count == 1 else "HHII"
        content += struct.pack(end + form, tag, kind, count, value)
    content += struct.pack(end + "I", 0) + struct.pack(end + "H", bits) * samples
    return content + levels.astype(levels.dtype.newbyteorder(end)).tobytes()


def assert_reads(content, expected, tolerance=1):
    expected = np.broadcast_to(expected, (*expected.shape[:2], 3))
    found = np.asarray(load_image(content)).astype(float)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance
    assert load_pixels(content, 8).shape == (8, 8, 3)


def over_white(colours, alpha):
    """Colours in [0, 255] laid over white; alpha in [0, 1]."""
    return colours * alpha + 255 * (1 - alpha)


LEVELS = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 4))


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_of_8_and_16_bits(colour, channels, bits):
    levels = LEVELS[..., :channels] >> (16 - bits)
    scaled = levels * (255 / (2**bits - 1))
    if channels in (2, 4):
        scaled = over_white(scaled[..., :-1], scaled[..., -1:] / 255)
    # Two: Pillow rounds 16-bit colours and their alpha down.
    assert_reads(png(levels, bits, colour), scaled, tolerance=2 if channels in (2, 4) else 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_greys(bits):
    levels = LEVELS[..., :1] >> (16 - bits)
    assert_reads(png(levels, bits, 0), levels * (255 / (2**bits - 1)))


def test_transparency_of_palettes_and_single_colours():
    palette, alpha = LEVELS[:4, :, :3].reshape(256, 3) >> 8, LEVELS[:4, :, 3].reshape(256) >> 8
    index = LEVELS[..., :1] >> 8
    colours = (b"PLTE", palette.astype(np.uint8).tobytes())
    assert_reads(png(index, 8, 3, colours), palette[index[..., 0]])
    expected = over_white(palette[index[..., 0]], alpha[index] / 255)
    transparent = (b"tRNS", alpha.astype(np.uint8).tobytes())
    assert_reads(png(index, 8, 3, colours, transparent), expected)
    clear = NOISE.astype(int).copy()
    clear[(NOISE[7, 9] == NOISE).all(-1)] = 255
    transparent = (b"tRNS", struct.pack(">HHH", *NOISE[7, 9].tolist()))
    assert_reads(png(NOISE, 8, 2, transparent), clear, tolerance=0)


@pytest.mark.parametrize(("bits", "colour"), [(2, 0), (4, 0), (8, 0), (16, 0), (16, 2)])
def test_a_single_transparent_colour_of_every_depth(bits, colour):
    levels = LEVELS[..., : 3 if colour else 1] >> (16 - bits)
    chosen = levels[7, 9]
    transparent = (b"tRNS", struct.pack(f">{len(chosen)}H", *chosen.tolist()))
    expected = levels * (255 / (2**bits - 1))
    expected[(levels == chosen).all(-1)] = 255
    assert (expected == 255).sum() > 0
    assert_reads(png(levels, bits, colour, transparent), expected)


@pytest.mark.parametrize("end", "<>")
def test_tiff_of_8_and_16_bits(end):
    grey = LEVELS[..., 0].astype(np.uint16)
    colour = LEVELS[..., :3].astype(np.uint16)
    assert_reads(tiff(grey, 1, end), grey[..., None] / 257)
    assert_reads(tiff(colour, 2, end), colour / 257)
    assert_reads(tiff(NOISE, 2, end), NOISE, tolerance=0)
    assert_reads(tiff(NOISE[..., 0], 0, end), 255 - NOISE[..., :1].astype(int), tolerance=0)


def test_a_tiff_with_white_at_zero_is_no_negative():
    grey = LEVELS[..., 0].astype(np.uint16)
    assert_reads(tiff(grey, 0), 255 - grey[..., None] / 257)


# Cyan, magenta, yellow and black ink from 0 to 255, and the colours that they print.
INK = np.concatenate([255 - PICTURE, (COLUMNS * 2)[..., None].astype(np.uint8)], -1)
PRINTED = (255.0 - INK[..., :3]) * (255.0 - INK[..., 3:]) / 255


def cmyk_jpeg(stored, transform) -> bytes:
    """A JPEG of four channels with Adobe's marker, or without where `transform` is None."""
    # Pillow inverts what it writes, and marks it as Adobe's without a transform.
    image = Image.frombytes("CMYK", (WIDTH, HEIGHT), (255 - stored).tobytes())
    content = encode(image, "JPEG", quality=95)
    marker = content.index(b"\xff\xee\x00\x0eAdobe")
    kept = content[marker : marker + 15] + bytes([transform]) if transform is not None else b""
    return content[:marker] + kept + content[marker + 16 :]


@pytest.mark.parametrize("writer", ["Adobe", "Photoshop", "plain"])
def test_cmyk_jpeg(writer):
    tf = pytest.importorskip("tensorflow")
    if writer == "plain":
        content = cmyk_jpeg(INK, None)
    elif writer == "Adobe":
        content = cmyk_jpeg(255 - INK, 0)
    else:
        # YCCK: the three inks as they are take the part of red, green and blue.
        inks = np.asarray(Image.fromarray(np.ascontiguousarray(INK[..., :3])).convert("YCbCr"))
        content = cmyk_jpeg(np.concatenate([inks, 255 - INK[..., 3:]], -1), 2)
    if writer != "Photoshop":
        assert_reads(content, PRINTED, tolerance=5)
    assert_reads(content, tf.io.decode_jpeg(content, 3).numpy(), tolerance=5)


def test_jpeg_and_png_against_tensorflow():
    tf = pytest.importorskip("tensorflow")
    grey = Image.fromarray(PICTURE).convert("L")
    for content in (
        encode(PICTURE, "JPEG"),
        encode(PICTURE, "JPEG", progressive=True),
        encode(PICTURE, "JPEG", subsampling="4:4:4", quality=98),
        encode(grey, "JPEG"),
        encode(PICTURE, "JPEG") + b"garbage" * 50,
        encode(NOISE),
        png(LEVELS[..., :3], 16, 2),
        png(LEVELS[..., :1], 16, 0),
    ):
        assert_reads(content, tf.io.decode_image(content, 3).numpy(), tolerance=5)


def mpo(**options) -> bytes:
    """What phones write: a JPEG that a second one follows."""
    more = {"save_all": True, "append_images": [Image.fromarray(NOISE)], "quality": 95}
    return encode(PICTURE, "MPO", **more, **options)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_picture_is_taken(kind):
    frames = [Image.fromarray(a).quantize(16) for a in (PICTURE, NOISE, PICTURE[::-1].copy())]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert_reads(content, np.asarray(frames[0].convert("RGB")), tolerance=0)


def test_phone_pictures_are_read():
    content = mpo()
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert_reads(content, PICTURE, tolerance=6)
    # The second picture may be missing, as where a program has cut the file.
    assert_reads(content[: content.rindex(b"\xff\xd8\xff")], PICTURE, tolerance=6)


def test_a_broken_list_of_pictures_is_no_reason_to_lose_the_first():
    content = mpo().replace(b"MPF\0", b"MPF\0broken", 1)
    assert_reads(content, PICTURE, tolerance=6)


def test_a_damaged_png_is_refused():
    content = bytearray(encode(NOISE))
    first, last = content.index(b"IDAT") + 4, content.index(b"IEND") - 8
    for place in np.linspace(first, last - 1, 60).astype(int):
        damaged = bytes(content[:place]) + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        with pytest.raises(ImageError, match=r"^image bytes: damaged"):
            load_image(bytes(damaged))


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (3, 2)])
def test_any_shape_becomes_a_square(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = load_pixels(encode(pixels), 4)
    assert found.shape == (4, 4, 3)
    if math.prod(shape) > 6:
        # An antialiased resize keeps the mean.
        assert np.abs(found.mean((0, 1)) - pixels.mean((0, 1))).max() < 2
