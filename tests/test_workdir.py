"""A workdir knows its run, and refuses another's config."""

import json

import pytest
from ml_collections import ConfigDict

from capjax import build, workdir
from capjax.data.tokenizer import train_word_tokenizer
from configs import base, coco_transformer, shapes_transformer


@pytest.mark.parametrize("module", [base, coco_transformer, shapes_transformer])
def test_configs_come_back_as_they_were(module, tmp_path):
    config = module.get_config()
    workdir.save_config(str(tmp_path), config)
    again = workdir.load_config(str(tmp_path))
    assert again.to_dict() == config.to_dict()
    workdir.check_same_run(str(tmp_path), module.get_config())


def test_another_training_config_is_refused_by_field(tmp_path):
    config = base.get_config()
    workdir.save_config(str(tmp_path), config)
    config.decoder.num_layers = 7
    config.decoding.num_beams = 3
    config.dataset.data_dir = "/elsewhere"
    with pytest.raises(workdir.WorkdirError) as raised:
        workdir.check_same_run(str(tmp_path), config)
    message = str(raised.value)
    assert "decoder.num_layers: 2 in the run, 7 now" in message
    assert "num_beams" not in message
    assert "data_dir" not in message


def test_another_encoder_is_refused(tmp_path):
    workdir.save_config(str(tmp_path), base.get_config())
    config = base.get_config()
    config.encoder = base.conv_encoder()
    with pytest.raises(workdir.WorkdirError, match=r"encoder.blocks: '\(absent\)' in the run, 2"):
        workdir.check_same_run(str(tmp_path), config)


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(workdir.WorkdirError, match=r"no config\.json"):
        workdir.load_config(str(tmp_path))


def test_every_config_field_is_read():
    """Sections become arguments of what they build: an unread field is a TypeError."""
    tokenizer = train_word_tokenizer(["a cat", "a dog"])
    for config in (base.get_config(), shapes_transformer.get_config()):
        build.captioner(config, tokenizer)
        build.beam_search(config.decoding)
        build.optimizer(config)
    config.encoder.extra = 1
    with pytest.raises(TypeError, match="extra"):
        build.captioner(config, tokenizer)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("encoder", "name", "vit", r"config.encoder.name='vit'; it may be 'patch', 'conv'"),
        ("decoder", "name", "gru", r"config.decoder.name='gru'; it may be 'transformer'"),
        (None, "dtype", "float16", r"config.dtype='float16'; it may be 'float32', 'bfloat16'"),
    ],
)
def test_unknown_names_are_config_errors(section, field, value, message):
    config = base.get_config()
    (config[section] if section else config)[field] = value
    with pytest.raises(build.ConfigError, match=message):
        build.captioner(config, train_word_tokenizer(["a cat"]))


def test_config_json_is_plain(tmp_path):
    workdir.save_config(str(tmp_path), ConfigDict({"a": (1, 2), "b": None}))
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": [1, 2], "b": None}
