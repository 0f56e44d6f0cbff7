"""A checkpoint's preprocessing is read in every spelling that published files have."""

import json

import pytest

from capjax.data.resize import Resize
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.preprocessing_file import Preprocessing, read_preprocessing

HALF = (0.5, 0.5, 0.5)
PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CASES = {
    "old ViT": (
        {"do_normalize": True, "do_resize": True, **PIXELS, "size": 224},
        Preprocessing((224, 224), None, "bilinear", HALF, HALF),
    ),
    "new ViT": (
        {**PIXELS, "image_processor_type": "ViTImageProcessor"}
        | {"size": {"height": 224, "width": 192}, "resample": 2},
        Preprocessing((224, 192), None, "bilinear", HALF, HALF),
    ),
    "old CLIP": (
        {**PIXELS, "feature_extractor_type": "CLIPFeatureExtractor", "size": 224}
        | {"crop_size": 224, "do_center_crop": True, "resample": 3},
        Preprocessing(224, (224, 224), "bicubic", HALF, HALF),
    ),
    "new DINOv2": (
        {**PIXELS, "image_processor_type": "BitImageProcessor"}
        | {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
        Preprocessing(256, (224, 224), "bicubic", HALF, HALF),
    ),
    "old DeiT": (
        {**PIXELS, "feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224},
        Preprocessing((256, 256), (224, 224), "bicubic", HALF, HALF),
    ),
    "nothing is done": (
        {"do_resize": False, "do_center_crop": False, "do_normalize": False}
        | {"size": 224, "crop_size": 224, "resample": 1},
        Preprocessing(None, None, "lanczos", (0.0,) * 3, (1.0,) * 3),
    ),
    "pixels of 0 to 255": (
        {"size": [10, 20], "image_mean": [51, 51, 51], "image_std": [255, 255, 255]}
        | {"do_rescale": False},
        Preprocessing((10, 20), None, "bilinear", (0.2,) * 3, (1.0,) * 3),
    ),
    "pixels over 127.5": (
        {"size": 8, "image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 1 / 127.5},
        Preprocessing((8, 8), None, "bilinear", HALF, HALF),
    ),
}
TIMM = {"input_size": [3, 224, 224], "interpolation": "bicubic", "mean": HALF, "std": HALF}


def write(folder, content, name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", CASES)
def test_every_spelling_is_read(name, tmp_path):
    content, expected = CASES[name]
    write(tmp_path, content)
    found = read_preprocessing(tmp_path)
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)
    assert (found.resize, found.crop) == (expected.resize, expected.crop)
    assert found.interpolation == expected.interpolation


def test_other_files_are_read_where_there_is_no_such_one(tmp_path):
    assert read_preprocessing(tmp_path) is None
    write(tmp_path, {"model_type": "vit"}, "config.json")
    assert read_preprocessing(tmp_path) is None
    about = {"architecture": "vit", "pretrained_cfg": {**TIMM, "crop_pct": 0.9}}
    write(tmp_path, about, "config.json")
    timm = Preprocessing(248, (224, 224), "bicubic", HALF, HALF, round_crop=True)
    assert read_preprocessing(tmp_path) == timm
    write(tmp_path, {"image_processor": CASES["old ViT"][0]}, "processor_config.json")
    assert read_preprocessing(tmp_path) == CASES["old ViT"][1]
    write(tmp_path, CASES["new ViT"][0])
    assert read_preprocessing(tmp_path) == CASES["new ViT"][1]


def test_timms_squash_and_usual_share_are_read(tmp_path):
    def read(**changes):
        write(tmp_path, {"pretrained_cfg": {**TIMM, **changes}}, "config.json")
        return read_preprocessing(tmp_path)

    assert read().resize == 256
    assert read(crop_pct=1.0, crop_mode="squash").resize == (224, 224)
    with pytest.raises(WeightsError, match=r"config\.json: crop_mode is 'border' of 224x224"):
        read(crop_mode="border")
    with pytest.raises(WeightsError, match="its pretrained_cfg has no size, mean and std"):
        read(mean=None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("old ViT", Resize(224)),
        ("old CLIP", Resize(224, 224, True, "bicubic")),
        ("new DINOv2", Resize(224, 256, True, "bicubic")),
        ("old DeiT", Resize(224, 256, False, "bicubic")),
    ],
)
def test_it_says_how_pictures_become_squares(name, expected, tmp_path):
    write(tmp_path, CASES[name][0])
    assert read_preprocessing(tmp_path).as_resize() == expected


def test_a_share_of_timms_is_cut_out_as_torchvision_does(tmp_path):
    write(tmp_path, {"pretrained_cfg": {**TIMM, "crop_pct": 0.9}}, "config.json")
    expected = Resize(224, 248, True, "bicubic", round_crop=True)
    assert read_preprocessing(tmp_path).as_resize() == expected


@pytest.mark.parametrize("name", ["new ViT", "nothing is done", "pixels of 0 to 255"])
def test_what_makes_no_squares_is_refused(name, tmp_path):
    write(tmp_path, CASES[name][0])
    with pytest.raises(WeightsError, match="which makes no squares of one size"):
        read_preprocessing(tmp_path).as_resize()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": {"longest_edge": 3}},
            r"preprocessor_config\.json: size is \{'longest_edge': 3\}",
        ),
        ({"size": 8, "crop_size": {"shortest_edge": 8}}, "crop_size is .*, and must be a square"),
        ({"size": 8, "resample": 9}, r"resample is 9, and must be \[0, 1, 2, 3, 4, 5\]"),
    ],
)
def test_what_there_are_no_words_for_is_refused(changes, message, tmp_path):
    write(tmp_path, {**PIXELS, **changes})
    with pytest.raises(WeightsError, match=message):
        read_preprocessing(tmp_path)


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: is no JSON file"):
        read_preprocessing(tmp_path)
