"""One file holds all that a pretrained encoder needs, whatever library it came from."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from capjax.cli.convert_encoder import convert_encoder
from capjax.config import build
from capjax.config.errors import ConfigError
from capjax.data.resize import Resize
from capjax.models.encoders.resnet import ResNet
from capjax.pretrained import tables
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.resnet import TABLE, load_resnet
from capjax.pretrained.weights import variable_shapes
from configs import folder_transformer, shapes_transformer

PIXELS = {"input_size": [3, 64, 64], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(name="timm")
def write_timm(tmp_path):
    """timm's folder of a ResNet-50."""
    folder, rng = tmp_path / "resnet", np.random.default_rng(0)
    folder.mkdir()
    shapes = tables.shapes(TABLE, variable_shapes(ResNet(50), 64))
    tensors = {name: rng.uniform(0.5, 1, shape).astype("f") for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    about = {"architecture": "resnet50", "pretrained_cfg": {**PIXELS, "crop_pct": 0.8}}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


@pytest.mark.slow(reason="compiles a ResNet-50; a MobileNet is converted every day")
def test_timms_resnet_is_taken_by_its_folder_and_converted(timm, tmp_path, capsys):
    config = folder_transformer.get_config(f"{timm}/")
    assert build.encoder(config) == ResNet(50, grid=0)
    expected = Resize(64, 80, keep_aspect=True, interpolation="bicubic", round_crop=True)
    assert build.resize(config.dataset) == expected
    config.encoder.grid = 3
    convert_encoder(config, str(tmp_path / "mine.safetensors"))
    assert "wrote" in capsys.readouterr().out
    mine = folder_transformer.get_config(f"{tmp_path}/mine.safetensors")
    assert build.encoder(mine) == ResNet(50, grid=3)
    assert build.resize(mine.dataset) == expected
    jax.tree.map(
        np.testing.assert_array_equal,
        build.pretrained_encoder(mine),
        load_resnet(ResNet(50), str(timm), 64),
    )
    mine.encoder.depth = 101
    with pytest.raises(WeightsError, match=r"mine\.safetensors: does not fit .*missing .*layer3"):
        build.pretrained_encoder(mine)


def test_what_cannot_be_converted_says_so(tmp_path, timm):
    with pytest.raises(ConfigError, match="'conv' is not pretrained; it must be one of "):
        convert_encoder(shapes_transformer.get_config(), str(tmp_path / "a.safetensors"))
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        convert_encoder(folder_transformer.get_config(f"{timm}/"), str(tmp_path / "a.npz"))


def test_a_file_of_an_unknown_encoder_is_refused(tmp_path):
    about = json.dumps({"name": "vgg", "fields": {}, "resize": {"size": 8}})
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1)}, path, {"capjax_encoder": about})
    with pytest.raises(ValueError, match="holds the encoder 'vgg', which this version lacks"):
        folder_transformer.get_config(str(path))
