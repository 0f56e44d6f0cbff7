"""Pixels beside those of the libraries that encoders come from, on photographs and noise."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capjax.data.images import load_pixels
from capjax.data.resize import Resize
from tests.helpers.references import need_torchvision, need_transformers

SHARED = Path(__file__).parents[3] / "shared" / "flickr8k" / "Images"
# Odd sides, both ways up, and one smaller than what is cut out.
SIZES = [(333, 501), (501, 334), (227, 225), (160, 97), (224, 224)]


def noise(width, height):
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), np.uint8)
    rough = np.kron(coarse, np.ones((9, 9, 1), np.uint8))[:height, :width].astype(int)
    return Image.fromarray(
        np.clip(rough + rng.integers(-30, 30, rough.shape), 0, 255).astype(np.uint8)
    )


@pytest.fixture(scope="module", name="pictures")
def make_pictures():
    photographs = sorted(SHARED.glob("*.jpg"))[:6] if SHARED.is_dir() else []
    pictures = [noise(*size) for size in SIZES]
    for path in photographs:
        picture = Image.open(path).convert("RGB")
        pictures.append(picture.crop((0, 0, picture.width - 1, picture.height - 2)))
    return pictures


def levels(found, expected):
    return np.abs(found.astype(int) - expected.astype(int)).max()


# The published processors' own fields.
_PROCESSORS = {
    "clip": ("CLIPImageProcessorPil", {}, Resize(224, 224, True, "bicubic")),
    "vit": ("ViTImageProcessorPil", {}, Resize(224)),
    "deit": ("DeiTImageProcessorPil", {}, Resize(224, 256, False, "bicubic")),
    "siglip": ("SiglipImageProcessorPil", {}, Resize(224, 0, False, "bicubic")),
    "dinov2": (
        "BitImageProcessorPil",
        {"size": {"shortest_edge": 256}},
        Resize(224, 256, True, "bicubic"),
    ),
}


@pytest.mark.parametrize("name", _PROCESSORS)
def test_pixels_are_those_of_transformers(name, pictures):
    transformers = need_transformers()
    kind, fields, resize = _PROCESSORS[name]
    processor = getattr(transformers, kind)(**fields)
    for picture in pictures:
        expected = processor(picture, do_rescale=False, do_normalize=False)["pixel_values"][0]
        found = load_pixels(picture, resize)
        assert found.shape == resize.shape
        assert levels(found, np.asarray(expected).transpose(1, 2, 0)) <= 1


@pytest.mark.parametrize(
    ("weights", "resize"),
    [
        ("ResNet101_Weights.IMAGENET1K_V2", Resize(224, 232, True, round_crop=True)),
        ("ResNet101_Weights.IMAGENET1K_V1", Resize(224, 256, True, round_crop=True)),
        ("Inception_V3_Weights.IMAGENET1K_V1", Resize(299, 342, True, round_crop=True)),
        (
            "EfficientNet_B0_Weights.DEFAULT",
            Resize(224, 256, True, "bicubic", round_crop=True),
        ),
    ],
)
def test_pixels_are_those_of_torchvision(weights, resize, pictures):
    models = need_torchvision().models
    kind, version = weights.split(".")
    transforms = getattr(models, kind)[version].transforms(mean=(0, 0, 0), std=(1, 1, 1))
    for picture in pictures:
        expected = transforms(picture).numpy().transpose(1, 2, 0) * 255
        assert levels(load_pixels(picture, resize), expected.round()) <= 1


def test_without_antialias_pixels_are_those_of_tensorflow(pictures):
    import tensorflow as tf

    resize = Resize(100, antialias=False)
    for picture in pictures:
        expected = tf.image.resize(np.asarray(picture), (100, 100)).numpy().round()
        assert levels(load_pixels(picture, resize), expected) <= 1


def test_the_centre_is_cut_out():
    ramp = np.tile(np.arange(60, dtype=np.uint8), (20, 1))
    pixels = load_pixels(ramp, Resize(20, 20, keep_aspect=True))
    assert pixels[0, :, 0].tolist() == list(range(20, 40))
    down, even = (
        load_pixels(ramp[:, :23], Resize(20, 20, True, round_crop=half))[0, 0, 0]
        for half in (False, True)
    )
    assert (down, even) == (1, 2)
    whole = load_pixels(ramp, Resize(20))
    assert whole[0, 0, 0] < 3
    assert whole[0, -1, 0] > 56


@pytest.mark.parametrize(
    "how", [Resize(24), Resize(24, 30), Resize(24, 30, True), Resize(24, 24, True, "bicubic")]
)
def test_the_part_that_is_seen_gives_the_pixels(how):
    for width, height in [(300, 200), (211, 400), (64, 64), (20, 31)]:
        ramp = np.stack(np.broadcast_arrays(*np.ogrid[:height, :width], 0), -1)
        picture = Image.fromarray((ramp * 255 // max(width, height)).astype(np.uint8))
        part = how.seen(width, height)
        alone = load_pixels(picture.crop(part), 24)
        # A pixel of a small picture that is seen in part may be taken whole.
        assert levels(alone, load_pixels(picture, how)) <= 3 + 255 // min(width, height)
    assert Resize(24, 30).seen(300, 200) == (30, 20, 270, 180)


def test_a_crop_is_resized_whole():
    ramp = np.tile(np.arange(60, dtype=np.uint8), (20, 1))
    resize = Resize(10, 15, keep_aspect=True)
    found = load_pixels(ramp, resize, crop=(10, 0, 50, 20))
    # At its sides a crop sees beyond them.
    np.testing.assert_array_equal(found[:, 1:-1], load_pixels(ramp[:, 10:50], 10)[:, 1:-1])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": 0}, "size must be at least 1 pixel, not 0"),
        ({"size": 224, "resize_to": 200}, "resize_to=200 must be 0, or at least the 224 pixels"),
        ({"size": 9, "interpolation": "cubic"}, "interpolation='cubic'; it must be 'nearest'"),
        (
            {"size": 9, "interpolation": "lanczos", "antialias": False},
            "interpolation='lanczos' without antialias; it must be 'bilinear'$",
        ),
    ],
)
def test_what_is_no_resize_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Resize(**fields)
