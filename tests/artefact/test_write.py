"""What is written of a captioner: its weights in three types, any method, and scores."""

import dataclasses
import functools
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from capjax.artefact import runner, write
from capjax.artefact.scores import metrics_of, scores_of
from capjax.artefact.weights import restore, store
from capjax.artefact.write import export_program
from capjax.cli.export import main, parse_arguments
from capjax.evaluate.methods import Consensus
from capjax.files.errors import DataError
from capjax.pretrained.errors import ExportError
from configs import base
from tests.helpers.effort import sweep
from tests.helpers.small_pictures import write_pictures

METHODS = {
    "sample": {"temperature": 0.8, "top_k": 5, "num_captions": 2, "seed": 5},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained": {"must_include": ("e",), "prompt": "a b"},
    "consensus": {"num_samples": 3, "reward": "bleu4", "num_captions": 2, "seed": 5},
    "processed": {"no_repeat_ngram_size": 2, "bad_words": ("a",), "repetition_penalty": 1.3},
    "allowed": {"allowed": ("a b", "c d e")},
}


def test_weights_are_rounded_as_said():
    rng = np.random.default_rng(0)
    tensors = {
        "a/kernel": rng.normal(size=(5, 3)).astype("f") * [1, 10, 100],
        "a/embedding": rng.normal(size=(3, 5)).astype("f") * [[1], [10], [100]],
        "a/bias": rng.normal(size=3).astype("f"),
        "a/empty": np.zeros((2, 2), "f"),
        "a/count": np.int32(3),
    }
    tensors = {
        name: np.asarray(a, "f" if a.dtype == float else None) for name, a in tensors.items()
    }
    for kind, step in (("float32", 0), ("bfloat16", 2**-8), ("int8", 0.5 / 127)):
        stored = store(tensors, kind)
        found = jax.jit(restore)(stored)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
        for name, axis in (("a/kernel", 0), ("a/embedding", 1)):
            most = step * np.abs(tensors[name]).max(axis=axis, keepdims=True)
            assert (np.abs(found[name] - tensors[name]) <= most * 1.001).all()
        np.testing.assert_array_equal(found["a/empty"], 0)
    assert stored["a/kernel"].dtype == np.int8
    assert stored["a/bias"].dtype == np.float32
    assert store(tensors, "bfloat16")["a/bias"].dtype == ml_dtypes.bfloat16


def seeded(method, seed):
    if isinstance(method, Consensus):
        return dataclasses.replace(method, candidates=seeded(method.candidates, seed))
    return dataclasses.replace(method, seed=seed)


@pytest.mark.parametrize("name", sweep(METHODS, ["sample"]))
def test_every_method_says_the_same(run, pictures, tmp_path, name):
    method = run.method(**METHODS[name])
    write.write_artefact(run, tmp_path / "to", method=method, platforms=("cpu",))
    artefact = runner.load(tmp_path / "to")
    samples = name in ("sample", "consensus")
    assert artefact.manifest["seed"] == (5 if samples else None)
    for seed in (None, 7) if samples else (None,):
        known = method if seed is None else seeded(method, seed)
        ours = artefact.caption(pictures, seed=seed)
        for mine, other in zip(ours, run.caption(pictures, method=known), strict=True):
            assert mine.text == other.text
            assert [each.text for each in mine.alternatives] == [str(a) for a in other.alternatives]
            np.testing.assert_allclose(mine.log_probs, other.log_probs, atol=1e-5)


@pytest.mark.slow(
    reason="exports twice more; tests/test_lowering.py lowers for other platforms every day"
)
def test_nothing_depends_on_the_devices_of_the_writer(run, monkeypatch):
    texts, greedy = [], run.method(num_beams=1)
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        texts.append(export_program(run, greedy, platforms=("cpu",))[0].mlir_module())
    assert texts[0] == texts[1]


def test_its_own_captions_are_scored(run, folder, tmp_path, monkeypatch):
    write_pictures(tmp_path)
    config = run.config.copy_and_resolve_references()
    config.dataset = base.folder_dataset()
    config.dataset.update(file=f"{tmp_path}/captions.csv", cache_dir="", image_size=16)
    scored = dataclasses.replace(run, config=config)
    scores = scores_of(runner.load(folder), scored, "validation")["validation"]
    assert scores["images"] == 3
    assert {"BLEU-4", "CIDEr-D", "finished"} <= scores.keys()
    program = export_program(run, run.method(num_beams=1), platforms=("cpu",))
    monkeypatch.setattr(write, "export_program", lambda *_, **__: program)
    told = {"metrics": {"validation": {"loss": 1.0}}, "scores": lambda _: {"validation": scores}}
    write.write_artefact(scored, tmp_path / "to", **told)
    manifest = runner.load(tmp_path / "to").manifest
    assert (manifest["metrics"], manifest["scores"]) == (told["metrics"], {"validation": scores})
    # A failure leaves nothing behind.
    scorer = functools.partial(scores_of, run=scored, split="none")
    with pytest.raises(DataError):
        write.write_artefact(scored, tmp_path / "other", scores=scorer)
    assert {each.name for each in tmp_path.iterdir() if each.is_dir()} == {"to"}


def test_the_metrics_of_its_checkpoint_are_told(tmp_path):
    rows = [
        {"step": 2, "group": "train", "loss": 9.0},
        {"step": 2, "group": "validation", "wall_seconds": 1.0, "loss": 3.0},
        {"step": 4, "group": "validation", "loss": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "evaluation").mkdir()
    result = {"step": 2, "metrics": {"BLEU-4": 20.0}}
    (tmp_path / "evaluation" / "test-step2-x.metrics.json").write_text(json.dumps(result))
    (tmp_path / "evaluation" / "test-step4-x.metrics.json").write_text("[")
    expected = {"validation": {"loss": 3.0}, "test-step2-x": {"BLEU-4": 20.0}}
    assert metrics_of(str(tmp_path), 2) == expected
    assert metrics_of(str(tmp_path / "none"), 2) == {}


def test_what_can_not_be_exported_says_so(shared, run, tmp_path, capsys):
    flags = ["--workdir", str(shared[0]), "--to", str(shared[1])]
    with pytest.raises(SystemExit, match="is there already"):
        main(["--format", "artefact", *flags])
    for wrong, says in [
        (["--weights", "int8"], "--weights is of --format artefact"),
        (["--num_beams", "3"], "--num_beams is of --format artefact"),
        (["--format", "artefact", "--platforms", "cpu,metal"], "must be some of cpu, cuda, rocm"),
        (["--format", "onnx", "--weights", "int8"], "--weights is of --format artefact"),
        (["--format", "tflite"], "invalid choice: 'tflite'"),
    ]:
        with pytest.raises(SystemExit):
            parse_arguments([*flags, *wrong])
        assert says in capsys.readouterr().err
    published = ["--format", "artefact", "--model", "x", "--to", "y", "--scores_split", "test"]
    with pytest.raises(SystemExit):
        parse_arguments(published)
    assert "--scores_split needs --workdir" in capsys.readouterr().err
    method = run.method(temperature=1.0, seed=2**31)
    with pytest.raises(ExportError, match="seed=2147483648 must be at most 2147483647"):
        write.write_artefact(run, tmp_path / "to", method=method)
