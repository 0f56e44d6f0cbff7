"""Pixels are those of transformers' image processors, whatever their files leave out."""

import json

import numpy as np
import pytest
from PIL import Image

from capjax.data.images import load_pixels
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.preprocessing_file import read_preprocessing
from tests.helpers.references import need_transformers

transformers = need_transformers()

MEAN = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}
FILES = {
    "nothing": {},
    "mean": MEAN,
    "a crop": {"crop_size": {"height": 96, "width": 96}},
    "a size": {"size": {"height": 80, "width": 80}, "do_center_crop": False},
    "another filter": {"resample": 0},
    "no crop": {"do_center_crop": False, "size": {"height": 60, "width": 60}, **MEAN},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["ViT", "DeiT", "CLIP", "Bit", "Siglip", "Beit"])
def test_pixels_are_those_of_transformers(kind, name, tmp_path):
    file = {"image_processor_type": f"{kind}ImageProcessor", **FILES[name]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    processor = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (25, 37, 3), np.uint8)
    picture = Image.fromarray(noise).resize((301, 233), Image.Resampling.BICUBIC)
    theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    found = read_preprocessing(tmp_path)
    ours = load_pixels(picture, found.as_resize()).astype(np.float32) / 255
    grey = (theirs * np.float32(found.std) + np.float32(found.mean) - ours) * 255
    assert ours.shape == theirs.shape
    assert np.abs(grey).max() <= 1.01


def test_a_processor_of_another_model_is_refused(tmp_path):
    file = {"image_processor_type": "PixtralImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    with pytest.raises(WeightsError, match=r"is for PixtralImageProcessor, and this reads .*ViT"):
        read_preprocessing(tmp_path)
