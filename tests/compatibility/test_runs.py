"""Runs that commit c32e60f made load, caption, go on and are scored as they were by it."""

import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import capjax
from tests.compatibility import runs, small_configs
from tests.compatibility.entry import evaluate, train
from tests.helpers.effort import slow_too

# Weights and word vectors, which training reads once.
STARTED_WITH = ("small.weights.h5", "vit.safetensors", "vectors.txt")
# What is tried of these in every test run, of the others in the slow one.
SCORED_QUICKLY = ("mobilenet_frozen",)
CONTINUED_QUICKLY = ("gru",)
CAPTIONED_QUICKLY = ("patch_transformer", "gru", "mobilenet_frozen")


def some_slow(quick, reason):
    """All runs; those that are not quick are marked."""
    slow = pytest.mark.slow(reason=reason)
    return [name if name in quick else pytest.param(name, marks=slow) for name in runs.NAMES]


@pytest.fixture(name="here")
def make_here(tmp_path, monkeypatch):
    """Unpacks a run into the current folder, and gives its record."""

    def here(name):
        runs.unpack(name, tmp_path)
        monkeypatch.chdir(tmp_path)
        return runs.record_of(name)

    return here


def same(found, recorded, record, where=""):
    """Equal to the bit in the environment that made the record, and nearly so in another."""
    if record["environment"] == runs.environment():
        assert found == recorded, where
    else:
        nearly(found, recorded, record, where)


def nearly(found, recorded, record, where=""):
    """Equal but for the rounding of numbers."""
    if isinstance(recorded, dict):
        assert found.keys() == recorded.keys(), where
        for key in recorded:
            nearly(found[key], recorded[key], record, f"{where}/{key}")
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), where
        for number, (one, two) in enumerate(zip(found, recorded, strict=True)):
            nearly(one, two, record, f"{where}/{number}")
    elif isinstance(recorded, float):
        loose = record["config"]["dtype"] == "bfloat16"
        # Twice what rounding to five places can move, as attention is recorded.
        tolerance = 2e-2 if loose else 1e-3 if where.startswith("end") else 2e-5
        assert found == pytest.approx(recorded, rel=tolerance, abs=tolerance), where
    else:
        assert found == recorded, where


def only(found, recorded):
    """What is found, without the names of dicts that a later version adds."""
    if isinstance(found, dict) and isinstance(recorded, dict):
        return {name: only(found[name], recorded[name]) for name in recorded if name in found}
    if isinstance(found, list) and isinstance(recorded, list) and len(found) == len(recorded):
        return [only(one, two) for one, two in zip(found, recorded, strict=True)]
    return found


def assert_used(before):
    """No file is written again, and none is added but those that earlier versions did not have."""
    now = cached()
    assert {name: now[name] for name in before} == before
    added = {
        re.match(r"cache/(captions|tokens|tokenizer)-\w+\.", name) for name in now.keys() - before
    }
    assert all(added)


def cached(folder="cache"):
    """What identifies each file of the caches, and tells whether it was written again."""
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    stats = {file: os.stat(file) for file in files}
    return {file: (s.st_ino, s.st_mtime_ns, s.st_size) for file, s in stats.items()}


def check_captions(run, record, labels):
    """Nearly, since on CPUs a search now multiplies by transposed kernels."""
    found = json.loads(json.dumps(runs.caption(run, labels)))
    nearly(found, {label: record["captions"][label] for label in labels}, record, "captions")


@pytest.mark.parametrize("name", [*runs.NAMES, "exported"])
def test_a_run_loads_and_captions(name, here):
    record = here(name)
    run = capjax.load("captioner" if name == "exported" else "run")
    assert runs.describe_parameters(run) == record["parameters"]
    # Nothing is computed yet, so that these are the same bits on every machine.
    assert runs.digest_parameters(run) == record["sha256"]
    if name != "exported":
        assert (run.step, run.tokenizer.vocab_size) == (record["step"], record["words"])
    if slow_too():
        greedily = name in CAPTIONED_QUICKLY
        check_captions(run, record, [m for m in runs.METHODS if m != "greedy" or greedily])
    elif name in CAPTIONED_QUICKLY:
        check_captions(run, record, ["beam"])
    jax.clear_caches()


@pytest.mark.parametrize("name", some_slow(CONTINUED_QUICKLY, "compiles training steps"))
def test_a_killed_run_goes_on_to_the_same_end(name, here, caplog):
    record, config = here(name), small_configs.get_config(name)
    before = cached()
    # What it began with may be gone, as the run that a `started` one began from is.
    for file in STARTED_WITH:
        Path(file).unlink(missing_ok=True)
    train(config, "run")
    assert "continuing run from step 40" in caplog.text
    assert_used(before)
    end, recorded = json.loads(json.dumps(runs.describe_end("run"))), record["end"]
    assert set(recorded.pop("files")) - {"evaluation"} <= set(end.pop("files"))
    assert (end["checkpoints"], end["best"]) == (recorded["checkpoints"], recorded["best"])
    if record["environment"] != runs.environment():
        del end["sha256"], recorded["sha256"]
    end["rows"] = only(end["rows"], recorded["rows"])
    same(end, recorded, record, "end")


@pytest.mark.parametrize("name", some_slow(SCORED_QUICKLY, "compiles a beam search and a loss"))
def test_a_run_is_scored(name, here):
    record = here(name)
    before = cached()
    evaluate(small_configs.get_config(name), "run", split="validation", checkpoint="best")
    assert_used(before)
    found = runs.read_evaluation("run")
    recorded = record["evaluation"]
    # A later version may say more of where a result is from, and measure more.
    assert set(recorded["keys"]) <= set(found["keys"])
    found["keys"] = recorded["keys"]
    found["metrics"] = only(found["metrics"], recorded["metrics"])
    same(found, recorded, record, "evaluation")


@pytest.mark.slow(reason="compiles the encoder")
def test_the_features_of_a_cache_are_those_that_the_encoder_gives(here):
    """What is read is right, not only unchanged: the loss from pixels is the one from features."""
    record = here("mobilenet_frozen")
    config = small_configs.get_config("mobilenet_frozen")
    config.encoder.cache, config.dataset.cache_dir = "", ""
    metrics = evaluate(config, "run", split="validation", checkpoint="best")
    np.testing.assert_allclose(metrics["loss"], record["evaluation"]["metrics"]["loss"], rtol=1e-3)
