"""Images that people's folders hold, whole and broken, made by Pillow."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

HEIGHT, WIDTH = 12, 16
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encode(image, kind="PNG", **options) -> bytes:
    """The file of a picture or an array."""
    content = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(content, kind, **options)
    return content.getvalue()


def exif(orientation=6) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = orientation, "a picture"
    return tags


def whole_files() -> dict[str, bytes]:
    """A small file of every kind, by a name that says which."""
    palette = PICTURE.quantize(16)
    more = {"save_all": True, "append_images": [Image.fromarray(PIXELS[::-1].copy())]}
    sixteen = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    return {
        "jpeg": encode(PICTURE, "JPEG", exif=exif()),
        "jpeg progressive": encode(PICTURE, "JPEG", progressive=True),
        "jpeg cmyk": encode(PICTURE.convert("CMYK"), "JPEG"),
        "mpo": encode(PICTURE, "MPO", **more),
        "png": encode(PICTURE, "PNG", exif=exif()),
        "png palette": encode(palette, "PNG", transparency=1),
        "png grey alpha": encode(PICTURE.convert("LA"), "PNG"),
        "png 16 bits": encode(sixteen, "PNG"),
        "png animated": encode(PICTURE, "PNG", **more),
        "gif": encode(palette, "GIF", **more),
        "webp": encode(PICTURE, "WEBP", exif=exif()),
        "webp lossless": encode(PICTURE, "WEBP", lossless=True),
        "webp animated": encode(PICTURE, "WEBP", **more),
        "bmp": encode(PICTURE, "BMP"),
        "ppm": encode(PICTURE, "PPM"),
        "tiff": encode(PICTURE, "TIFF"),
        "tiff lzw": encode(PICTURE, "TIFF", compression="tiff_lzw"),
        "tiff 16 bits": encode(sixteen, "TIFF"),
    }


def odd_files() -> dict[str, bytes]:
    """Files with pictures whose shape is extreme or whose other content is garbage."""
    text = PngImagePlugin.PngInfo()
    up = b"Exif\0\0MM\0*" + struct.pack(">IHHHI4sI", 8, 1, 0x0112, 2, 4, b"up\0\0", 0)
    text.add_text("comment", "x" * 2_000_000, zip=True)
    return {
        "one pixel": encode(Image.new("RGB", (1, 1)), "PNG"),
        "one row": encode(Image.new("RGB", (10_000, 1)), "JPEG"),
        "one column": encode(Image.new("RGB", (1, 10_000)), "GIF"),
        "garbage profile": encode(PICTURE, "PNG", icc_profile=b"garbage" * 50),
        "garbage profile of a jpeg": encode(PICTURE, "JPEG", icc_profile=b"garbage" * 50),
        "garbage exif": encode(PICTURE, "JPEG", exif=b"Exif\0\0garbage" * 9),
        "garbage exif of a png": encode(PICTURE, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "garbage exif of a webp": encode(PICTURE, "WEBP", exif=b"Exif\0\0garbage!!"),
        "short exif": encode(PICTURE, "PNG", exif=b"Exif\0\0II*\0"),
        "orientation 99": encode(PICTURE, "JPEG", exif=exif(99)),
        "orientation of text": encode(PICTURE, "JPEG", exif=up),
        "rest of another file": encode(PICTURE, "JPEG") + b"\0" * 999,
        "long comment": encode(PICTURE, "PNG", pnginfo=text)[:20_000],
    }


def huge_headers() -> dict[str, bytes]:
    """Small files that say they are 100,000 pixels wide and high, or about as much."""
    side = 100_000
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    jpeg = bytearray(encode(PICTURE, "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = b"\xff\xff\xff\xff"
    gif = bytearray(encode(PICTURE.quantize(4), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    bmp = bytearray(encode(PICTURE, "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    tiff = encode(PICTURE, "TIFF")
    for tag in (256, 257):
        place = tiff.index(struct.pack("<HHI", tag, 4, 1))
        tiff = tiff[:place] + struct.pack("<HHII", tag, 4, 1, side) + tiff[place + 12 :]
    return {
        "png": png + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IEND\xaeB`\x82",
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "ppm": b"P6 %d %d 255\n" % (side, side),
        "tiff": tiff,
        "webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xff\xff\x00" * 2 + b"\0" * 12,
    }
