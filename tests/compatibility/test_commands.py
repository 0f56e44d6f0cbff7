"""Documented commands, config files and Python calls are as commit c32e60f had them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import capjax
from tests.compatibility import interface, runs
from tests.compatibility.command_list import COMMANDS
from tests.compatibility.commands import RECORD, environment, perform, start
from tests.helpers.effort import slow_too

_SLOW = pytest.mark.slow(reason="commands in processes of their own")
# Of this repository, what many commands import, and define no flags: with TensorFlow.
_MODULES = ("tensorflow", "capjax.run.train", "capjax.run.evaluate", "capjax.data.tfds_source")
_MODULES += ("capjax.cli.caption_images", "experiments.sweep_plan")


@pytest.fixture(scope="module", name="warm")
def make_warm(tmp_path_factory):
    """They share their compiled programs, with each other and with test_runs.py."""
    home = tmp_path_factory.mktemp("home")
    (home / ".cache/capjax").mkdir(parents=True)
    (home / ".cache/capjax/xla").symlink_to(os.environ["JAX_COMPILATION_CACHE_DIR"])
    with start(home, _MODULES if slow_too() else ()) as warm:
        yield warm


@pytest.fixture(scope="module", name="recorded_commands")
def read_recorded():
    return json.loads(RECORD.read_text())


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, id=c.name, marks=() if c.quick else _SLOW) for c in COMMANDS],
)
def test_a_command_does_what_it_did(command, recorded_commands, tmp_path, warm):
    if command.name not in recorded_commands:
        pytest.skip("not recorded: python -m tests.compatibility.commands --missing")
    recorded = recorded_commands[command.name]
    found = perform(command, tmp_path, warm)
    said = found.pop("said")
    assert "Traceback" not in said
    assert found["status"] == recorded["status"], said
    for text in command.mentions:
        assert text in said
    assert set(recorded["flags"]) <= set(found["flags"])
    # A later version may write more, but not less.
    assert set(recorded["written"]) <= set(found["written"]), said
    assert recorded["json"].keys() <= found["json"].keys()
    for name, keys in recorded["json"].items():
        assert set(keys) <= set(found["json"][name]), name
    assert set(recorded["lines"]) <= set(found["lines"]), said


@pytest.mark.slow(reason="imports everything in a process of its own")
def test_a_command_is_one_without_the_warm_process(tmp_path):
    """As users give it: `python -m`."""
    runs.unpack("gru", tmp_path)
    command = [sys.executable, "-m", "capjax.caption", "--workdir", "run", "pictures/9.png"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


RETRAINED = (
    *("num_steps", "eval_every", "optimizer.learning_rate", "optimizer.warmup_steps", "ema_decay"),
    *("dataset.length_bucket", "decoding.length_penalty", "evaluation.num_samples"),
    *("encoder.widths", "optimizer.schedule"),
)


@pytest.fixture(scope="module", name="interfaces")
def describe_interfaces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("vit_frozen", "exported"):
        runs.unpack(name, folder)
    return interface.describe(folder), json.loads(interface.RECORD.read_text())


@pytest.mark.parametrize("part", ["configs", "sections", "changes"])
def test_configs_have_their_fields_and_values(part, interfaces):
    found, recorded = (described[part] for described in interfaces)
    assert recorded.keys() <= found.keys()
    for name, fields in recorded.items():
        # TFDS's datasets have another name and a field for theirs since.
        if fields.get("dataset.name") == "coco_captions":
            fields = {**fields, "dataset.name": "tfds", "dataset.tfds_name": "coco_captions"}
        # The metric has implied the mode since, in all of them.
        if "early_stopping.mode" in fields:
            assert fields["early_stopping.mode"] == "max"
            fields = {**fields, "early_stopping.mode": "auto"}
        # The default trains otherwise since.
        if name == "shapes_transformer":
            fields = {field: x for field, x in fields.items() if field not in RETRAINED}
        # A later version may add fields.
        assert fields == {field: found[name].get(field) for field in fields}, name


def test_sweep_files_have_their_runs(interfaces):
    found, recorded = (described["sweeps"] for described in interfaces)
    assert found == recorded


def test_python_names_are_there(interfaces):
    found, recorded = interfaces
    assert set(recorded["exported"]) <= set(found["exported"])
    assert recorded["load"].items() <= found["load"].items()
    for name, was in recorded["classes"].items():
        now = found["classes"][name]
        for part in ("fields", "properties"):
            assert set(was[part]) <= set(now[part] + now["properties"] + now["fields"]), name
        assert was["methods"].keys() <= now["methods"].keys()
        for method, parameters in was["methods"].items():
            assert parameters.items() <= now["methods"][method].items(), (name, method)


def test_the_documented_calls(tmp_path, monkeypatch):
    """README's lines of Python."""
    runs.unpack("vit_frozen", tmp_path)
    monkeypatch.chdir(tmp_path)
    run = capjax.load("run")
    picture = Image.open("pictures/9.png").convert("RGB")
    given = ["pictures/9.png", np.asarray(picture), picture]
    captions = run.caption(given, attention=True)
    assert len({caption.text for caption in captions}) == 1
    for caption in captions:
        assert caption.log_prob < 0
        assert len(caption.attention.shape) == 3
