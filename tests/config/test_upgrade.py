"""Configs of an earlier version get the fields of this one, and those of this one stay."""

import copy

import pytest

from capjax.config.upgrade import upgrade
from configs import base

LONG_THERE = {"num_beams", "length_penalty", "early_stopping", "max_length"}
OLD = {
    "dataset": {"name": "karpathy", "file": "a.json"},
    "evaluation": {"batch_size": 4},
    "optimizer": {"learning_rate": 0.1},
    "decoding": {"method": "beam search", "num_beams": 3},
}


def test_fields_that_were_added_since_have_the_value_of_before():
    before = copy.deepcopy(OLD)
    found = upgrade(OLD)
    # What an older version did is what the base config's other fields do.
    base_fields = base.get_config().decoding.to_dict()
    assert found["decoding"].items() <= {**base_fields, "num_beams": 3}.items()
    assert found["decoding"].keys() >= base_fields.keys() - LONG_THERE
    old = ("method", "num_beams", "temperature", "top_k", "top_p", "min_p", "seed")
    found["decoding"] = {name: found["decoding"][name] for name in old}
    assert found == {
        "dataset": {"name": "karpathy", "file": "a.json"},
        "tokenizer": {"kind": "words"},
        "evaluation": {"metrics": (), "batch_size": 4},
        "objective": {"name": "cross_entropy"},
        "optimizer": {
            "kind": "adamw",
            "learning_rate": 0.1,
            "matrix_learning_rate": 0.02,
            "epsilon": 1e-8,
        },
        "decoding": {
            "method": "beam",
            "num_beams": 3,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "seed": 0,
        },
    }
    assert before == OLD


def test_one_reward_is_a_sum_of_one():
    found = upgrade({**OLD, "decoding": {"reward": "bleu4"}})["decoding"]
    assert (found["rewards"], found["reward_weights"]) == (("bleu4",), (1.0,))
    assert "reward" not in found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"name": "coco_captions", "data_dir": "d"},
            {"name": "tfds", "tfds_name": "coco_captions", "data_dir": "d"},
        ),
        ({"name": "shapes", "data_dir": ""}, {"name": "shapes", "data_dir": ""}),
        ({"name": "folder", "file": "a.csv"}, {"name": "folder", "file": "a.csv"}),
    ],
)
def test_a_dataset_of_tfds_says_so(old, new):
    upgraded = upgrade({**OLD, "dataset": old})
    assert upgraded["dataset"] == new
    assert upgrade(upgraded) == upgraded


def test_a_whole_config_gets_fields_outside_of_sections():
    assert upgrade({**OLD, "num_steps": 3})["wandb_project"] == ""
    assert upgrade({"num_steps": 3, "wandb_project": "x"})["wandb_project"] == "x"


def test_what_a_config_says_stays():
    now = {
        "dataset": {"name": "shapes", "data_dir": ""},
        "evaluation": {"metrics": ("SPICE",)},
        "objective": {"name": "self_critical", "weight": 1.0},
        "optimizer": {"kind": "muon", "matrix_learning_rate": 0.1, "epsilon": 1e-7},
        "decoder": {"name": "transformer", "epsilon": 1e-3, "feed_forward_dropout": 0.5},
    }
    assert upgrade(now) == now


def test_a_transformer_decoder_gets_its_fields_and_another_part_does_not():
    added = {"epsilon": 1e-6, "feed_forward_dropout": 0.0}
    for name, fields in {"transformer": added, "gpt2": {}}.items():
        decoder = upgrade({**OLD, "decoder": {"name": name, "width": 8}})["decoder"]
        assert decoder == {"name": name, "width": 8, **fields}


@pytest.mark.parametrize("name", ["dataset", "evaluation"])
def test_a_section_that_is_none_is_named(name):
    with pytest.raises(ValueError, match=f"{name} is no section"):
        upgrade({**OLD, name: 3})
