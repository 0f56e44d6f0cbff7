"""Folders of captioners and adapters whose files are of other kinds, endless or too large."""

import dataclasses
import json
import os
import random

import jax
import numpy as np
import pytest
import safetensors.numpy

from capjax.pretrained.captioners.export_captioner import write_captioner
from capjax.pretrained.captioners.peft_adapters import read_adapters
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import WeightsError
from capjax.run.published import load_published
from tests.helpers.damage import OTHER, of_other_kinds, replaced
from tests.helpers.effort import slow_too
from tests.helpers.small_captioner_files import write_captioner_files

FILES = ("config.json", "generation_config.json", "preprocessor_config.json")
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
MODULE = "base_model.model.text_decoder.bert.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module", name="folders")
def make_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners")
    for kind in ("blip", "git"):
        write_captioner_files(root / kind, kind)
    return root


@pytest.fixture(scope="module", name="whole")
def make_whole(folders):
    """The folder of a BLIP with weights of 0."""
    found = read_captioner(folders / "blip", weights=False)
    like = jax.eval_shape(
        lambda: found.module().init_variables(jax.random.key(0), found.resize.shape)
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    write_captioner(dataclasses.replace(found, variables=zeros), folders / "whole")
    return folders / "whole"


def refusal(folder):
    """Why the folder is refused, in one line that names it; "" where it is read."""
    try:
        read_captioner(folder, weights=False)
    except WeightsError as error:
        message = str(error)
    else:
        return ""
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("kind", ["blip", "git"])
@pytest.mark.parametrize("name", FILES)
def test_every_value_of_another_kind_is_read_or_refused(folders, kind, name):
    file = folders / kind / name
    cases = [damaged for *_, damaged in of_other_kinds(file.read_bytes())]
    drawn = cases if slow_too() else random.Random(0).sample(cases, min(15, len(cases)))
    for damaged in (*drawn, *OTHER[:4]):
        with replaced(file, damaged):
            refusal(folders / kind)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("blip", {"architectures": 3}),
        ("blip", {"text_config": [3]}),
        ("git", {"vision_config": "x"}),
        ("git", {"hidden_act": []}),
        ("git", {"model_type": {"x": "y" * 10_000}}),
    ],
)
def test_sections_and_names_of_other_kinds_are_refused(folders, kind, fields):
    file = folders / kind / "config.json"
    changed = {**json.loads(file.read_text()), **fields}
    with replaced(file, json.dumps(changed).encode()):
        assert f"{file}: " in refusal(folders / kind)


def test_a_pipe_and_a_file_of_many_bytes_are_not_read(folders):
    file = folders / "blip" / "config.json"
    with replaced(file, b" " * (17 * 2**20)):
        assert "config.json: can't be read: 17825792 bytes" in refusal(folders / "blip")
    with replaced(file, b""):
        file.unlink()
        os.mkfifo(file)
        assert "config.json: can't be read: a pipe, socket" in refusal(folders / "blip")


def adapters(folder, tensors, **fields):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **fields}))
    named = {f"{MODULE}.lora_{name}.weight": array for name, array in tensors.items()}
    safetensors.numpy.save_file(named, folder / "adapter_model.safetensors")
    return folder


def pair(rank=2, value=1.0, kind=np.float32):
    return {"A": np.full((rank, 8), value, kind), "B": np.full((8, rank), value, kind)}


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        (pair(0), {}, "of equal ranks above 0"),
        (pair(kind=np.int32), {}, r"int32 \[2, 8\], and adapters of dense layers alone"),
        (pair(kind=bool), {}, r"bool \[2, 8\], and adapters of dense layers alone"),
        (pair(value=1e300, kind=np.float64), {}, "are not finite"),
        (pair(), {"lora_alpha": 10**400}, "must be a finite number"),
        (pair(), {"lora_alpha": 1e300}, "must be a finite number"),
        (pair(), {"alpha_pattern": {"query": float("nan")}}, "query=nan must be a finite number"),
        (pair(), {"rank_pattern": {"query": 10**400}}, "must be a finite number"),
    ],
)
def test_hostile_adapters_are_refused(folders, tmp_path, tensors, fields, message):
    found = read_captioner(folders / "blip", weights=False)
    with pytest.raises(WeightsError, match=message):
        read_adapters(adapters(tmp_path / "peft", tensors, **fields), found)


def test_finite_adapters_with_an_infinite_product_are_refused(whole, tmp_path):
    load_published(str(whole), adapters(tmp_path / "one", pair()))
    with pytest.raises(WeightsError, match="numbers of decoder/blocks_0/self_attention/query/ke"):
        load_published(str(whole), adapters(tmp_path / "two", pair(value=1e30)))
