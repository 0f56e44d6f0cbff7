"""An artefact captions as its run does, without capjax, or says what is wrong with it."""

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export

from capjax.artefact import runner
from capjax.artefact.captioner import row_of
from capjax.artefact.folder import runner_source
from capjax.artefact.manifest import ArtefactError, about_file, digest, is_artefact
from tests.helpers import command_line, damage
from tests.helpers.alone import run_alone

# What a runner may not import.
BLOCKED = ("capjax", "flax", "tensorflow", "optax", "ml_collections")
TEXTS = ("text", "words", "finished", "met")
NUMBERS = ("log_prob", "score", "log_probs")


def assert_same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        for name in TEXTS:
            assert getattr(mine, name) == getattr(other, name)
        for name in NUMBERS:
            np.testing.assert_allclose(getattr(mine, name), getattr(other, name), atol=1e-5)
        assert_same(mine.alternatives, other.alternatives)


def test_captions_are_those_of_the_run(run, folder, pictures):
    artefact = runner.load(folder)
    ours = artefact.caption(pictures, batch_size=2)
    theirs = run.caption(pictures, num_captions=2, attention=True)
    assert len({caption.text for caption in ours}) > 1
    assert_same(ours, theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.attention, other.attention, atol=1e-5)
        assert mine.text == run.tokenizer.decode(mine.tokens)
    assert artefact.manifest["attention"] == {"grid": list(other.grid), "prefix": 0, "layers": 1}
    # Any size of a batch is one program.
    pixels = np.stack([artefact.read(picture) for picture in pictures[:3]])
    found = artefact.run(pixels)
    assert found["tokens"].shape[:2] == (3, 2)
    assert artefact.captions(found)[2].text == ours[2].text
    spoilt = {**found, "log_probs": np.full_like(found["log_probs"], np.nan)}
    assert all(isinstance(each, ArtefactError) for each in artefact.captions(spoilt))


def test_it_needs_no_capjax(folder, pictures, tmp_path):
    names = [str(tmp_path / f"{number}.png") for number in range(2)]
    for picture, name in zip(pictures, names, strict=False):
        picture.save(name)
    wrong = tmp_path / "wrong.png"
    wrong.write_text("no image")
    done = run_alone(folder, BLOCKED, "--json", names[0], wrong, names[1])
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {wrong}: not an image of a known format")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [row_of(each) for each in runner.load(folder).caption(pictures[:2])]
    assert [row["image"] for row in rows] == [str(wrong), *names]
    assert "error" in rows[0]
    for row, same in zip(rows[1:], expected, strict=True):
        assert row["caption"] == same["caption"]
        np.testing.assert_allclose(row["log_probs"], same["log_probs"], atol=1e-5)
        assert row["alternatives"][0].keys() == same["alternatives"][0].keys()


def test_its_runner_is_one_file_that_imports_five_libraries(folder):
    text = (folder / "runner.py").read_text()
    found = {a or b for a, b in re.findall(r"^(?:from (\w+)|import (\w+))", text, re.MULTILINE)}
    known = {"jax", "numpy", "PIL", "tokenizers", "safetensors"}
    assert {name for name in found if name not in sys.stdlib_module_names} == known
    spec = importlib.util.spec_from_file_location("loaded_runner", folder / "runner.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert module.load(folder).manifest == runner.load(folder).manifest


@pytest.mark.parametrize("name", ["runner", "onnx_runner"])
def test_no_name_is_of_two_of_its_parts(name):
    file = command_line.REPOSITORY / f"capjax/artefact/{name}.py"
    text = runner_source(SimpleNamespace(__file__=str(file)))
    assert "from capjax" not in text
    names = re.findall(r"^(?:def |class )?(\w+)(?:\(|:| =|, \w+)", text, re.MULTILINE)
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_a_manifest_says_what_it_is(run, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["program"]["jax"] == jax.__version__
    assert manifest["program"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["program"]["inputs"] == {
        "images": "uint8 [b, 16, 16, 3]",
        "index": "int32 [b]",
        "seed": "int32 []",
    }
    assert manifest["program"]["outputs"]["tokens"] == "int32 [b, 2, 5]"
    assert manifest["decoding"]["num_beams"] == 2
    assert manifest["made_by"]["tokenizer"] == run.tokenizer.fingerprint
    listed = {*os.listdir(folder)} - {"__pycache__"}  # Of the runner, which a test has imported.
    assert manifest["files"].keys() | {"manifest.json"} == listed
    assert (manifest["seed"], manifest["distinct"]) == (None, False)
    assert is_artefact(folder)
    assert not is_artefact(folder.parent)


@pytest.mark.parametrize("name", ["program.jax", "weights.safetensors", "tokenizer.json"])
def test_what_is_damaged_says_so(copied, name):
    path = copied / name
    content = path.read_bytes()
    for wrong in [*damage.cut(content, 2), *damage.flipped(content, 4), content + b"\0"]:
        path.write_bytes(wrong)
        with pytest.raises(ArtefactError, match=re.escape(str(path))):
            runner.load(copied)
    path.unlink()
    with pytest.raises(ArtefactError, match=f"{name}: can't be read: No such file"):
        runner.load(copied)


def test_a_damaged_manifest_says_so(copied):
    path = copied / "manifest.json"
    content = path.read_bytes().rstrip()
    others = [*damage.cut(content, 3), *damage.flipped(content, 6), *damage.OTHER]
    for wrong in others:
        path.write_bytes(wrong)
        with pytest.raises(ArtefactError, match=re.escape(str(path))):
            runner.load(copied)


def rewrite(folder, change):
    """Changes a manifest as its writer would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    change(manifest)
    manifest["sha256"] = digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_other_versions_and_platforms_say_so(copied, monkeypatch, capsys):
    monkeypatch.setattr(export, "minimum_supported_calling_convention_version", 11)
    with pytest.raises(ArtefactError, match="can't run its calling convention 10: it was"):
        runner.load(copied)
    monkeypatch.undo()
    rewrite(copied, lambda manifest: manifest["program"].update(platforms=["cuda", "tpu"]))
    with pytest.raises(ArtefactError, match="is for cuda, tpu, and here is cpu"):
        runner.load(copied)
    rewrite(copied, lambda manifest: manifest.update(version=2))
    with pytest.raises(SystemExit, match=r"error: .*is of version 2, and this runner reads 1"):
        runner.main(["--artefact", str(copied), "a.png"])
    for seed in ("-1", "3000000000"):
        with pytest.raises(SystemExit):
            runner.main(["--seed", seed, "a.png"])
    assert "--seed must be 0 to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("tokens", "special"), 3),
        (("tokens", "prompt"), ["x"]),
        (("preprocessing", "size"), 10**9),
        (("preprocessing", "interpolation"), "x"),
        (("preprocessing",), None),
        (("decoding", "method"), "../x"),
        (("seed",), 10**30),
        (("captions",), True),
        (("attention",), {"grid": {}}),
        (("program", "platforms"), "cpu"),
        (("files", "program.jax"), []),
    ],
)
def test_fields_of_other_kinds_are_named(copied, at, value):
    """Even where the manifest's hash was made to fit."""

    def change(manifest):
        for name in at[:-1]:
            manifest = manifest[name]
        manifest[at[-1]] = value

    rewrite(copied, change)
    with pytest.raises(ArtefactError, match=rf"its {at[0]}\S* is missing, or of another kind"):
        runner.load(copied)


def test_images_of_another_size_do_not_fit(copied):
    rewrite(copied, lambda manifest: manifest["preprocessing"].update(size=17))
    with pytest.raises(ArtefactError, match=r"program\.jax takes images of other sizes"):
        runner.load(copied)


def test_a_device_is_no_file_of_an_artefact(copied):
    """One without an end would be read for ever."""
    nothing = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    rewrite(copied, lambda manifest: manifest["files"].update({"program.jax": nothing}))
    for name in ("program.jax", "manifest.json"):
        (copied / name).unlink()
        (copied / name).symlink_to("/dev/zero")
        with pytest.raises(ArtefactError, match=f"{name}: is a pipe, a socket or a device"):
            runner.load(copied)


def test_files_of_different_artefacts_do_not_fit(copied):
    """Even where the manifest's hashes were made to fit."""
    path = copied / "weights.safetensors"
    tensors = safetensors.numpy.load(path.read_bytes())
    name = min(tensors)
    tensors[name] = tensors[name][:1]
    path.write_bytes(safetensors.numpy.save(tensors))
    about = about_file(str(path))
    rewrite(copied, lambda manifest: manifest["files"].update({path.name: about}))
    with pytest.raises(ArtefactError, match="does not hold the weights of program"):
        runner.load(copied)
