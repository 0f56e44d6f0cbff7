"""A workdir whose files are damaged, another run's or of another kind: an error that names them."""

import itertools
import json
import os
import random
import shutil

import numpy as np
import pytest
import safetensors.numpy

import capjax
from capjax import caption
from capjax.config.errors import ConfigError
from capjax.data.tokenizer import train_word_tokenizer
from capjax.pretrained.variables import load_variables, save_variables
from capjax.run.workdir import Workdir, WorkdirError, default_workdir
from capjax.train.checkpoint import Checkpoints
from capjax.train.writer import read_metrics
from tests.helpers.damage import OTHER, cut, flipped, of_other_kinds, replaced
from tests.helpers.effort import few

FILES = ("config.json", "tokenizer.json", "data.json", "frozen.safetensors")


@pytest.fixture(name="run")
def make_run(small_run):
    return small_run


@pytest.fixture(name="restored", autouse=True)
def make_restored(monkeypatch):
    """Checkpoints come back whatever the other files say."""
    monkeypatch.setattr(Checkpoints, "restore_params", lambda *_: {"decoder": {}})


def loads(run, name, load=capjax.load):
    """Whether the run is loaded; an error must name the file, in one line, and what to do."""
    try:
        load(str(run))
    except (ConfigError, WorkdirError) as error:
        message = str(error)
        assert name in message, message
        assert "\n" not in message
        assert "copy it" in message or "Train one" in message, message
        return False
    return True


def test_the_run_itself_is_whole(run, monkeypatch):
    monkeypatch.undo()
    found = capjax.load(run).caption([np.zeros((20, 30, 3), np.uint8)])
    assert len(found) == 1


# What reads a file first.
_READERS = {
    "config.json": lambda run: Workdir(run).load_config(),
    "tokenizer.json": lambda run: Workdir(run).load_tokenizer(),
    "data.json": lambda run: Workdir(run).load_tokenizer(),
    "frozen.safetensors": lambda run: Workdir(run).load_frozen(),
}


@pytest.mark.parametrize("name", FILES)
def test_no_damage_is_more_than_an_error(run, name):
    content, read = (run / name).read_bytes(), _READERS[name]
    for number, damaged in enumerate((None, *OTHER, *cut(content))):
        with replaced(run / name, damaged):
            if name == "data.json" and damaged == b"{}":
                assert loads(run, name)  # It says nothing of the tokenizer.
            elif not name.endswith("json") or damaged != content[:-1]:  # A last line end.
                assert not loads(run, name, capjax.load if number % 6 == 0 else read), damaged
    kept = 0
    for damaged in flipped(content, 60):
        with replaced(run / name, damaged):
            kept += loads(run, ".json" if name == "data.json" else name, read)
    # A tensor's name or the sum's own may be hit; a number in a config is any number.
    assert kept <= {"tokenizer.json": 0, "frozen.safetensors": 9}.get(name, 60)


def test_every_value_of_another_kind_is_said(run):
    for name in ("data.json", "tokenizer.json"):
        for path, value, damaged in of_other_kinds((run / name).read_bytes()):
            with replaced(run / name, damaged):
                told = not loads(run, ".json", _READERS[name])
            assert told or path[0] in ("train", "tokenizer"), (path, value)


_MODEL = ("dataset", "encoder", "decoder", "word_vectors", "early_stopping")


def test_every_field_of_another_kind_is_said(run):
    cases = [
        damaged
        for path, value, damaged in of_other_kinds((run / "config.json").read_bytes())
        # So many blocks would be made.
        if path[0] in _MODEL and (path[-1] not in ("depth", "num_layers") or value != 10**30)
    ]
    refused, drawn = 0, few(random.Random(0).sample(cases, 60))
    for damaged in drawn:
        with replaced(run / "config.json", damaged):
            refused += not loads(run, "config.json")
    assert refused > len(drawn) / 5


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("dataset", "num_threads", 0),
        ("evaluation", "batch_size", 0),
        ("evaluation", "batch_size", "x"),
        ("decoder", "width", 10**9),
        ("decoding", "length_penalty", float("nan")),
        ("encoder", "width", 0),
    ],
)
def test_an_edited_field_meets_the_checks_of_a_command_line(run, section, field, value):
    config = json.loads((run / "config.json").read_text())
    assert field in config[section]
    config[section][field] = value
    with replaced(run / "config.json", json.dumps(config).encode()):
        assert not loads(run, f"config.{section}.{field}=")


def test_a_captioner_needs_no_dataset(run):
    """Its config may name a dataset of the user's own, which is not there."""
    config = json.loads((run / "config.json").read_text())
    config["dataset"] |= {"name": "of_another_project", "root": 3}
    with replaced(run / "config.json", json.dumps(config).encode()):
        assert loads(run, "config.json")


@pytest.mark.parametrize("name", FILES[:2])
def test_the_command_line_says_it_in_a_line(run, name, capsys):
    with replaced(run / name, b"[3]"), pytest.raises(SystemExit) as caught:
        caption.main(["--workdir", str(run), "--compilation_cache", "", str(run)])
    said = str(caught.value.code) + capsys.readouterr().err
    assert said.startswith("error: ")


def test_another_vocabulary_is_refused(run):
    other = train_word_tokenizer(["a bird flies over seven seas"])
    aside = run / "other.json"
    other.save(aside)
    message = r"tokenizer\.json can't be used: data\.json says that the run was made with another"
    content = aside.read_bytes()
    aside.unlink()
    raises = pytest.raises(WorkdirError, match=message)
    with replaced(run / "tokenizer.json", content), raises:
        capjax.load(run)


def test_ids_with_gaps_are_no_tokenizer(run):
    content = json.loads((run / "tokenizer.json").read_text())
    content["model"]["vocab"]["dog"] = 4_000_000_000
    (run / "aside.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"aside\.json: the ids of the tokenizer's .* each once"):
        capjax.data.tokenizer.Tokenizer.load(run / "aside.json")
    (run / "aside.json").unlink()


def test_frozen_variables_of_another_run_are_refused(run, tmp_path):
    variables = load_variables(run / "frozen.safetensors")
    table = variables["params"]["decoder"]["tokens"]["embedding"]
    for other in (table[:-1], table.T):
        variables["params"]["decoder"]["tokens"]["embedding"] = other
        save_variables(tmp_path / "w.safetensors", variables)
        with replaced(run / "frozen.safetensors", (tmp_path / "w.safetensors").read_bytes()):
            assert not loads(run, "frozen.safetensors")


def test_a_run_made_before_sums_were_kept_is_loaded(run):
    """And one whose folder is only a part of a run is none."""
    content = safetensors.numpy.save(safetensors.numpy.load_file(run / "frozen.safetensors"))
    with replaced(run / "frozen.safetensors", content):
        assert loads(run, "")
    with pytest.raises(WorkdirError, match=r"is no run: it has no config\.json"):
        capjax.load(run / "checkpoints")
    shutil.copytree(run, run / "copy", ignore=shutil.ignore_patterns("copy", "checkpoints"))
    with pytest.raises(WorkdirError, match="no checkpoint"):
        capjax.load(run / "copy")
    shutil.rmtree(run / "copy")


@pytest.mark.parametrize("argument", ["../../x", "/etc/passwd", "a\0b", "..", "x" * 100])
def test_no_argument_of_a_config_leaves_the_folder_of_runs(argument):
    place = default_workdir(f"configs/base.py:{argument}")
    assert os.path.dirname(place) == "runs"
    assert os.path.basename(place).startswith("base")
    assert "\0" not in place


def test_damaged_lines_of_a_log_are_left_out_and_named(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    whole = {"step": 1, "group": "train", "loss": 2.5}
    lines = [json.dumps(whole)]
    for name, value in itertools.product(whole, (None, [], {}, "1", True)):
        if (name, value) != ("group", "1"):
            lines.append(json.dumps(whole | {name: value}))
    lines += [content.decode("latin-1") for content in OTHER if b"\n" not in content]
    path.write_text("\n".join([*lines, json.dumps(whole), ""]), encoding="utf-8", newline="")
    assert read_metrics(str(path)) == [whole, whole]
    assert f"{path}: line 2 is damaged and skipped" in caplog.text
    path.write_bytes(b'{"step": 1, "group": "train", "lo')
    assert read_metrics(str(path)) == []
