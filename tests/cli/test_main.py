"""The command lines as a user calls them, from training to captions of a folder."""

import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.data.shapes.builder import encode_png
from capjax.data.shapes.scene import image_id
from capjax.run.workdir import Workdir, WorkdirError
from capjax.train.events import read_events
from tests.helpers.command_line import SIZES, call, main

SMALL = [
    "--config.num_steps=4",
    "--config.eval_every=2",
    "--config.log_every=1",
    "--config.batch_size=8",
    "--config.optimizer.kind=adamw",
    "--config.optimizer.warmup_steps=1",
    "--config.encoder.widths=(8,)",
    "--config.encoder.stem_stride=8",
    "--config.dataset.length_bucket=0",
    "--config.encoder.blocks=1",
    "--config.decoder.width=16",
    "--config.decoder.num_layers=1",
    "--config.evaluation.batch_size=16",
    "--config.evaluation.num_samples=1",
    "--config.decoding.num_beams=2",
    # Plain: with the default's taste for short captions a model that knows nothing says nothing.
    "--config.decoding.length_penalty=1.0",
    "--config.decoding.suppress=()",
    "--config.decoding.bad_words=()",
]


@pytest.fixture(scope="session", name="trained")
def make_trained(home):
    workdir = home / "run"
    done = main(home, "--workdir", str(workdir), *SMALL)
    return workdir, done


def test_training_leaves_what_a_run_promises(trained):
    workdir, done = trained
    assert "a uniform guess costs" in done.stdout
    assert "DecoderBlock" in done.stdout
    assert "captions/s" in done.stderr
    # An evaluation's captions and its scores, and what comes after.
    assert re.search(r"^step 2, shapes-0-validation-000000: .", done.stdout, re.MULTILINE)
    assert re.search(r"^step 4: loss \d.*CIDEr-D \d.*best so far", done.stdout, re.MULTILINE)
    assert re.search(r"the best checkpoint is step [24]: \S+ \d", done.stdout)
    assert f"capjax evaluate {workdir}" in done.stdout
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["group"] == "train"] == [1, 2, 3, 4]
    for row in (row for row in rows if row["group"] == "validation"):
        assert {"loss", "accuracy", "BLEU-4", "CIDEr-D", "ROUGE-L", "truth_rate"} <= row.keys()
    assert Workdir(workdir).load_config().decoder.width == 16
    assert list((workdir / "tensorboard").iterdir())
    figures = {path.name for path in (workdir / "figures" / "step_0000004").iterdir()}
    assert figures == {f"image_0_temperature_{t}.png" for t in ("0", "0.5", "1")}
    # Seeded: the first loss of the smart start is the frequencies' entropy, give or take.
    first = next(row for row in rows if row["step"] == 1)
    assert abs(first["loss"] - 3.39) < 0.1


def test_a_finished_run_has_nothing_to_do_and_another_config_is_refused(home, trained):
    workdir, _ = trained
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    again = main(home, "--workdir", str(workdir), *SMALL)
    assert f"{workdir} is trained to its end, step 4: nothing to do" in again.stdout
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after if before.get(path) != after.get(path)}
    assert changed == {"lock", "training.png"}
    other = main(
        home, "--workdir", str(workdir), *SMALL, "--config.decoder.num_heads=2", check=False
    )
    assert other.returncode == 1
    assert "decoder.num_heads: 4 in the run, 2 now" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.mark.slow(reason="trains and evaluates in processes of their own")
def test_a_run_is_made_longer_and_evaluated_without_its_config(home, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    longer = call(home, "capjax.main", tmp_path / "run", "--config.num_steps=5")
    assert "5 steps instead of 4" in longer.stdout
    assert "the best checkpoint is step" in longer.stdout
    assert Workdir(tmp_path / "run").load_config().num_steps == 5
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["group"] == "train"] == [1, 2, 3, 4, 5]
    shorter = call(home, "capjax.main", tmp_path / "run", "--config.num_steps=4", check=False)
    assert "num_steps: 5 in the run, 4 now" in shorter.stderr
    two = ("--workdir", tmp_path / "run", "--workdir", trained[0], "--split", "test")
    settings = ("--config.decoding.num_captions=2", "--config.decoding.no_repeat_ngram_size=2")
    done = call(home, "capjax.main", "--mode", "evaluate", *two, *settings)
    assert {"loss", "CIDEr-D"} <= json.loads(done.stdout.splitlines()[-1]).keys()
    (file,) = (tmp_path / "run/evaluation").glob("test-*-best2-ngram2-ensemble2-*.metrics.json")
    assert len(json.loads(file.read_text())["ensemble"]["members"]) == 2
    rows = json.loads(Path(str(file).replace("metrics", "alternatives")).read_text())
    assert {len(row["captions"]) for row in rows} == {2}


@pytest.fixture(scope="session", name="evaluated")
def make_evaluated(home, trained):
    """The finished process that scored its test split."""
    place = ["--workdir", str(trained[0])]
    return main(home, *place, *SMALL, "--mode", "evaluate", "--split", "test")


def test_evaluation_prints_one_json_line_last_and_writes_provenance(trained, evaluated):
    workdir, done = trained[0], evaluated
    printed = json.loads(done.stdout.splitlines()[-1])
    folder = workdir / "evaluation"
    written = json.loads(next(folder.glob("test-*.metrics.json")).read_text())
    assert printed.keys() == written["metrics"].keys()
    assert printed["truth_rate"] == pytest.approx(written["metrics"]["truth_rate"], abs=1e-4)
    assert written["decoding"]["num_beams"] == 2
    assert written["images"] == SIZES["test"]
    assert written["config"]["seed"] == written["seed"] == 0
    assert {"tokenizer", "code", "source", "step"} <= written.keys()
    images = json.loads(next(folder.glob("test-*.images.json")).read_text())
    for name in ("CIDEr-D", "truth_rate"):
        assert np.mean(images["metrics"][name]) == pytest.approx(written["metrics"][name], abs=1e-9)
    results = json.loads(next(folder.glob("test-*.captions.json")).read_text())
    assert images["image_ids"] == [row["image_id"] for row in results]
    assert len(results) == SIZES["test"]
    assert results[0].keys() == {"image_id", "caption"}
    shown = {}
    for file in (workdir / "tensorboard").glob("test-beam2-*/*tfevents*"):
        for _, event in read_events(file):
            assert event.step in (0, written["step"])
            shown |= {value.tag: value.simple_value for value in event.summary.value}
    assert shown == {
        f"evaluation/{name}": pytest.approx(value, rel=1e-6)
        for name, value in written["metrics"].items()
    }


@pytest.fixture(scope="session", name="pictures")
def make_pictures(home):
    """The first test images as files, with a broken one and one that is no image."""
    folder = home / "pictures"
    (folder / "deep").mkdir(parents=True)
    for index in range(3):
        name = folder / ("deep" if index else "") / f"{index}.png"
        name.write_bytes(encode_png(image_id("test", index)))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def captions_of(done):
    return {Path(row["image"]).name: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.usefixtures("evaluated")
def test_captioning_equals_evaluation(home, trained, pictures, tmp_path):
    workdir, _ = trained
    arguments = ["--workdir", str(workdir), str(pictures), "--json", "--attention", str(tmp_path)]
    done = call(home, "capjax.caption", *arguments, check=False)
    assert done.returncode == 1  # One file could not be read ...
    assert "broken.jpg: not an image" in done.stderr
    assert "Traceback" not in done.stderr
    rows = captions_of(done)
    assert "broken.jpg: not an image" in rows.pop("broken.jpg")["error"]
    # ... and the others were captioned.
    assert sorted(rows) == ["0.png", "1.png", "2.png"]
    assert len(list(tmp_path.glob("*.png"))) == 3
    results = json.loads(next((workdir / "evaluation").glob("test-*.captions.json")).read_text())
    expected = {row["image_id"]: row["caption"] for row in results}
    for index in range(3):
        assert rows[f"{index}.png"]["caption"] == expected[image_id("test", index)]


@pytest.mark.slow(reason="two processes; samples and lengths are tested in tests/decode every day")
def test_options_of_captioning_act(home, trained, pictures):
    workdir, _ = trained
    picture = str(pictures / "0.png")

    def caption(seed):
        options = ("--temperature", "2", "--seed", seed, "--max_length", "4")
        done = call(home, "capjax.caption", "--workdir", workdir, picture, *options)
        return done.stdout.strip().split("\t")[1]

    first, second = caption(0), caption(1)
    assert first != second
    assert max(len(text.split()) for text in (first, second)) == 3


@pytest.mark.slow(reason="tests/run/test_python.py has a smaller run every day")
def test_python_interface_takes_paths_arrays_and_pillow_images(trained, pictures):
    run = capjax.load(trained[0])
    path = pictures / "0.png"
    with Image.open(path) as picture:
        images = [str(path), path, path.read_bytes(), picture, np.asarray(picture)]
        captions = run.caption(images, attention=True)
    assert len({caption.text for caption in captions}) == 1
    assert captions[0].attention.shape[0] == len(captions[0].words)
    greedy = capjax.BeamSearch(1, 1.0, False, 6)
    assert len(run.caption([path], method=greedy)[0].words) <= 5
    assert run.caption([]) == []


@pytest.mark.slow(reason="a process of its own; downloads are tested every day")
def test_urls_are_downloaded_and_checked(home, trained, pictures):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(pictures))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{root}/0.png", f"{root}/notes.txt", f"{root}/missing.png"]
        done = call(home, "capjax.caption", "--workdir", str(trained[0]), *urls, check=False)
        server.shutdown()
    assert done.returncode == 1
    assert done.stdout.startswith(urls[0])
    assert "notes.txt: is text/plain, not an image" in done.stderr
    assert "missing.png: cannot be downloaded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        # A wrong command line; tests/cli/test_flags.py has more.
        (["--config.decoder.num_layer=4"], 2, "did you mean decoder.num_layers"),
        (["--config.dtype=float16"], 1, "must be one of 'float32', 'bfloat16'"),
        (["--mode", "evaluate", "--workdir", "nowhere"], 1, "nowhere is no run"),
    ],
)
def test_mistakes_are_answered(home, arguments, status, message):
    done = main(
        home,
        *arguments,
        *([] if "nowhere" in arguments else ["--workdir", str(home / "x")]),
        check=False,
    )
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir", "nowhere", "x.jpg"], "nowhere is no run"),
        (["x.jpg"], "--workdir"),
    ],
)
def test_mistakes_in_captioning_are_answered(home, arguments, message):
    done = call(home, "capjax.caption", *arguments, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_named(home, trained):
    done = call(home, "capjax.caption", "--workdir", str(trained[0]), "x.jpg", check=False)
    assert done.returncode == 1
    assert "x.jpg: cannot be read: No such file" in done.stderr


def test_a_missing_checkpoint_lists_those_there(trained, tmp_path):
    with pytest.raises(WorkdirError, match=r"there are steps \[\d"):
        capjax.load(trained[0], 99)
    shutil.copytree(trained[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(WorkdirError, match="it has none yet"):
        capjax.load(tmp_path / "copy")


# Orbax leaves event loops open where it fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_named_and_another_one_taken(trained, tmp_path, caplog):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    files = [path for path in (workdir / "checkpoints" / "4" / "ema").rglob("d/*")]
    max(files, key=lambda path: path.stat().st_size).write_bytes(b"")
    assert capjax.load(workdir, "latest").step == 2
    assert capjax.load(workdir, "best").step == 2
    assert "checkpoints/4 can't be used" in caplog.text
    with pytest.raises(WorkdirError, match=r"checkpoints/4 can't be used") as raised:
        capjax.load(workdir, 4)
    assert "\n" not in str(raised.value)
    shutil.rmtree(workdir / "checkpoints" / "2" / "progress")
    with pytest.raises(WorkdirError, match=r"/4 can't be used.*/2 can't be used"):
        capjax.load(workdir)
