"""A captioner as ONNX says what its run says, without JAX; skipped without the extra `onnx`."""

import json
import re
import sys

import numpy as np
import pytest

import capjax
from capjax.artefact.manifest import ArtefactError
from capjax.cli.export import main
from capjax.pretrained.errors import ExportError
from tests.compatibility import runs
from tests.helpers import damage
from tests.helpers.alone import run_alone

pytestmark = pytest.mark.slow(reason="its converter takes ten seconds to import")

# What a runner may not import.
BLOCKED = ("capjax", "jax", "flax", "jax2onnx", "onnx")
SETTINGS = {
    "greedy": {"num_beams": 1},
    "several": {"num_beams": 4, "num_captions": 3, "length_penalty": -1.0},
    "ahead": {"num_beams": 3, "early_stopping": "never", "length_normalization": "gnmt"},
    "prompted": {"num_beams": 2, "early_stopping": "true", "prompt": "a b"},
}
MODELS = ("gru", "lstm_hard", "patch_transformer", "vit_gpt2", "mobilenet_frozen", "vit_frozen")


@pytest.fixture(scope="module", name="modules")
def import_both():
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    from capjax.artefact import onnx_runner, write_onnx

    return onnx_runner, write_onnx


def check(modules, run, pictures, folder, **settings):
    onnx_runner, write_onnx = modules
    method = run.method(**settings)
    write_onnx.write_onnx(run, folder, method=method)
    ours = onnx_runner.load(folder).caption(pictures)
    for mine, other in zip(ours, run.caption(pictures, method=method), strict=True):
        said = [(each.text, each.words, each.finished) for each in mine]
        assert said == [(c.text, c.words, c.finished) for c in other]
        np.testing.assert_allclose(mine.log_probs, other.log_probs, atol=1e-4)
        np.testing.assert_allclose(mine.score, other.score, atol=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_search_says_the_same(modules, run, pictures, tmp_path, name):
    check(modules, run, pictures, tmp_path / "to", **SETTINGS[name])


@pytest.mark.parametrize("name", MODELS)
def test_every_model_says_the_same(modules, pictures, tmp_path, name):
    runs.unpack(name, tmp_path)
    check(modules, capjax.load(tmp_path / "run"), pictures, tmp_path / "to")


def test_it_needs_no_jax_and_finds_damage(modules, shared, pictures, tmp_path):
    folder, picture = tmp_path / "to", tmp_path / "a.png"
    main(["--format", "onnx", "--workdir", str(shared[0]), "--to", str(folder)])
    pictures[0].save(picture)
    done = run_alone(folder, BLOCKED, "--json", picture)
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["caption"] == capjax.load(shared[0]).caption(pictures[0]).text
    text = (folder / "runner.py").read_text()
    found = {a or b for a, b in re.findall(r"^(?:from (\w+)|import (\w+))", text, re.MULTILINE)}
    known = {"onnxruntime", "numpy", "PIL", "tokenizers"}
    assert {name for name in found if name not in sys.stdlib_module_names} == known
    onnx_runner, _ = modules
    step = folder / "step.onnx"
    (wrong,) = damage.flipped(step.read_bytes(), 1)
    step.write_bytes(wrong)
    with pytest.raises(ArtefactError, match=r"step\.onnx: is damaged"):
        onnx_runner.load(folder)


def test_other_methods_are_refused(modules, run, tmp_path):
    for settings in ({"temperature": 1.0}, {"must_include": ("e",)}, {"bad_words": ("a",)}):
        with pytest.raises(ExportError, match="searches by beams alone"):
            modules[1].write_onnx(run, tmp_path / "to", method=run.method(**settings))
    assert not (tmp_path / "to").exists()
