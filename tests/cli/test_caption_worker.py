"""`python -m capjax.caption` for thousands of images: whatever ends it, what it wrote is whole."""

import json
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

import capjax
from capjax import caption
from capjax.cli import caption_images
from capjax.config import build
from capjax.data.images import load_pixels
from capjax.evaluate.attention_figures import file_stem
from capjax.evaluate.attention_maps import attended_picture
from configs import base
from tests.helpers.command_line import REPOSITORY, call, environment
from tests.helpers.small_run import write_untrained_run
from tests.helpers.ugly_images import whole_files

BATCH = 4


@pytest.fixture(scope="module", name="workdir")
def make_workdir(home):
    write_untrained_run(home / "untrained")
    return home / "untrained"


@pytest.fixture(scope="module", name="folder")
def make_folder(home):
    """Ten pictures, and ten files that are none of every kind that may lie between them."""
    folder = home / "half"
    folder.mkdir()
    files = list(whole_files().values())[:10]
    for number, content in enumerate(files):
        (folder / f"{number}-good.jpg").write_bytes(content)
        bad = folder / f"{number}-bad.jpg"
        if number == 0:
            os.mkfifo(bad)
        elif number == 1:
            bad.symlink_to("nothing")
        elif number == 2:
            bad.write_bytes(b"<html>404</html>")
        else:
            bad.write_bytes(content[: len(content) // 8 * (number % 3)])
    os.rename(folder / "9-good.jpg", os.fsencode(folder) + b"/caf\xe9\n-good.jpg")
    return folder


def arguments(workdir, *more):
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    return ["--workdir", str(workdir), "--compilation_cache", cache, *map(str, more)]


def rows(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture(scope="module", name="expected")
def make_expected(workdir, folder):
    """Captions of the good pictures by name."""
    names = sorted(str(folder / name) for name in os.listdir(folder) if "good" in name)
    captions = capjax.load(workdir).caption(names)
    assert len({caption.text for caption in captions}) > 3
    return {name: caption.text for name, caption in zip(names, captions, strict=True)}


def check(found, folder, expected):
    """The good pictures have their captions, and the bad ones errors, all in order."""
    assert [row["image"] for row in found] == sorted(
        str(folder / name) for name in os.listdir(folder)
    )
    assert {row["image"]: row["caption"] for row in found if "caption" in row} == expected
    errors = [row for row in found if "error" in row]
    assert len(errors) == 10
    for row in errors:
        assert row["error"].startswith(f"{row['image']}: ")


def test_of_a_folder_half_broken_the_other_half_is_captioned(
    home, workdir, folder, expected, tmp_path
):
    """By two devices, which share batches."""
    file = tmp_path / "captions.jsonl"
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    more = ("--output", file, "--batch_size", 3, folder)
    done = call(home, "capjax.caption", *arguments(workdir, *more), check=False, XLA_FLAGS=flags)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 10
    assert "Traceback" not in done.stderr
    check(rows(file), folder, expected)
    made_by = json.loads((tmp_path / "captions.jsonl.meta.json").read_text())
    assert {"config", "seed", "step", "weights", "tokenizer", "decoding", "code"} == made_by.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--num_beams", "2", "--num_captions", "3"], "num_captions=3 must be at most num_beams=2"),
        (["--length_penalty", "nan"], "length_penalty"),
        (["--prompt", "zebra"], "prompt"),
        (["--method", "nothing"], "method"),
    ],
)
def test_settings_that_a_run_does_not_take_are_named(workdir, capsys, settings, message):
    with pytest.raises(SystemExit) as raised:
        caption.main(arguments(workdir, *settings, "photo.jpg"))
    assert message in f"{raised.value.code}{capsys.readouterr().err}"


def start(home, workdir, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "capjax.caption", *arguments(workdir, *more)],
        cwd=REPOSITORY,
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ask(process, name):
    """Its answer to one name, while more may come."""
    process.stdin.write(os.fsencode(name) + b"\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def test_a_worker_answers_each_name_until_it_is_told_to_stop(home, workdir, folder, expected):
    with start(home, workdir, "--json", "-") as process:
        for name in list(expected)[:2]:
            assert ask(process, name)["caption"] == expected[name]
        assert "nowhere.jpg: cannot be read" in ask(process, "nowhere.jpg")["error"]
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        assert process.stdout.read() == b""
        assert process.stderr.read().startswith(b"error: nowhere.jpg")


@pytest.mark.slow(reason="a process of its own; streams that nobody reads are tested every day")
def test_a_worker_that_nobody_reads_ends_quietly(home, workdir, expected):
    with start(home, workdir, "--json", "-") as process:
        name = next(iter(expected))
        ask(process, name)
        process.stdout.close()
        process.stdin.write(os.fsencode(name) + b"\n")
        process.stdin.flush()
        assert process.wait() == 141
        assert process.stderr.read() == b""


def test_a_killed_worker_resumes(home, workdir, folder, expected, tmp_path, capfd):
    file, whole = tmp_path / "captions.jsonl", tmp_path / "whole.jsonl"
    with start(home, workdir, "--output", file, "-") as process:
        names = sorted(str(folder / name) for name in os.listdir(folder))[: BATCH + 1]
        process.stdin.write(b"".join(os.fsencode(name) + b"\n" for name in names))
        process.stdin.flush()
        while not (file.exists() and file.read_bytes().count(b"\n") >= BATCH):
            assert process.poll() is None, process.stderr.read()
        process.kill()
    with file.open("ab") as stream:
        stream.write(b'{"image": "half a li')
    assert caption.main(arguments(workdir, "--output", file, "--resume", folder)) == 1
    assert caption.main(arguments(workdir, "--output", whole, folder)) == 1
    check(rows(whole), folder, expected)
    sort = {row["image"]: row for row in rows(file)}
    assert len(sort) == len(rows(file))
    assert sort == {row["image"]: row for row in rows(whole)}
    capfd.readouterr()
    # All is done but the broken ones.
    assert caption.main(arguments(workdir, "--output", file, "--resume", *expected)) == 0
    assert capfd.readouterr() == ("", "")
    assert {row["image"]: row["caption"] for row in rows(file)} == expected
    with pytest.raises(SystemExit, match="has captions; continue with --resume") as caught:
        caption.main(arguments(workdir, "--output", file, folder))
    assert caught.value.code.startswith("error: ")
    other = arguments(workdir, "--output", file, "--resume", "--beam_size", 1, folder)
    with pytest.raises(SystemExit, match=r"decoding\.num_beams: 2 in the file, 1 now"):
        caption.main(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_a_batch_end(workdir, expected, tmp_path, monkeypatch, number):
    read, count = caption_images.read_input, 0

    def signals(name):
        nonlocal count
        count += 1
        if count == BATCH:
            os.kill(os.getpid(), number)
        return read(name)

    monkeypatch.setattr(caption_images, "read_input", signals)
    file, before = tmp_path / "captions.jsonl", signal.getsignal(number)
    assert caption.main(arguments(workdir, "--output", file, *expected)) == 128 + number
    assert signal.getsignal(number) == before
    found = rows(file)
    assert len(found) in (0, BATCH)
    assert [row["image"] for row in found] == list(expected)[: len(found)]
    more = arguments(workdir, "--output", file, "--resume", *expected)
    assert caption.main(more) == 0
    assert {row["image"]: row["caption"] for row in rows(file)} == expected


def test_lines_of_text_are_lines(workdir, folder, expected, capfd):
    assert caption.main(arguments(workdir, folder)) == 1
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == len(said.err.splitlines()) == 10
    texts = [line.split("\t")[1] for line in lines]
    assert texts == list(expected.values())
    assert "caf\\udce9\\n-good.jpg\t" in lines[-1]


def test_samples_do_not_depend_on_where_a_run_was_cut(workdir, expected, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    sample = ("--temperature", 1, "--seed", 3, *expected)
    assert caption.main(arguments(workdir, "--output", whole, *sample)) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:3]) + lines[3][:9])
    (tmp_path / "cut.jsonl.meta.json").write_bytes(
        (tmp_path / "whole.jsonl.meta.json").read_bytes()
    )
    assert caption.main(arguments(workdir, "--output", cut, "--resume", *sample)) == 0
    assert rows(cut) == rows(whole)


@pytest.mark.slow(reason="compiles an ensemble; tests/run/test_ensemble.py does so every day")
def test_an_ensemble_says_several_captions_and_each_words_probability(workdir, expected, tmp_path):
    """Of a run with itself, which says what the run does."""
    file = tmp_path / "captions.jsonl"
    more = ("--workdir", workdir, "--num_captions", 2, "--bad_words", "zz", *expected)
    with pytest.raises(SystemExit, match=r"config\.decoding\.bad_words has 'zz'"):
        caption.main(arguments(workdir, "--output", file, *more))
    assert not file.exists()
    more = ("--workdir", workdir, "--num_captions", 2, "--min_length", 0, *expected)
    assert caption.main(arguments(workdir, "--output", file, *more)) == 0
    assert {row["image"]: row["caption"] for row in rows(file)} == expected
    for row in rows(file):
        (other,) = row["alternatives"]
        assert row["score"] >= other["score"]
        assert len(row["log_probs"]) == len(row["words"]) + row["finished"]
        assert sum(row["log_probs"]) == pytest.approx(row["log_prob"], rel=1e-5)
    made_by = json.loads((tmp_path / "captions.jsonl.meta.json").read_text())
    assert made_by["ensemble"]["average"] == "probabilities"
    assert len(made_by["ensemble"]["members"]) == made_by["decoding"]["num_captions"] == 2


@pytest.mark.slow(reason="tests/evaluate/test_stream.py captions what a caption saw every day")
def test_what_captions_saw_is_captioned_too(workdir, expected, tmp_path, capfd):
    """In two goes, as --resume has it; with the picture that Python makes of it."""
    file, figures = tmp_path / "captions.jsonl", str(tmp_path / "figures")
    options = ("--attended", "--attention", figures, "--views", "heat,patches")
    more = (*options, "--batch_size", BATCH, "--output", file)
    names = list(expected)[: BATCH + 2]
    assert caption.main(arguments(workdir, *more, *names[:BATCH])) == 0
    assert caption.main(arguments(workdir, *more, "--resume", *names)) == 0
    run = capjax.load(workdir)
    firsts = run.caption(names, attention=True, batch_size=BATCH)
    side = run.config.dataset.image_size
    saw = [
        attended_picture(load_pixels(name, side), first)
        for name, first in zip(names, firsts, strict=True)
    ]
    seconds = run.caption(saw, attention=True, batch_size=BATCH)
    assert [(row["image"], row["caption"]) for row in rows(file)] == [
        (name, expected[name]) for name in names
    ]
    assert [row["attended"]["caption"] for row in rows(file)] == [c.text for c in seconds]
    fields = {"caption", "log_prob", "score", "finished", "words", "log_probs"}
    assert fields == rows(file)[0]["attended"].keys()
    assert any(row["caption"] != row["attended"]["caption"] for row in rows(file))
    for name, pixels in zip(names, saw, strict=True):
        stem = file_stem(figures, name)
        with Image.open(f"{stem}-attended-picture.png") as saved:
            np.testing.assert_array_equal(np.asarray(saved), pixels)
        assert os.path.exists(f"{stem}.png")
        assert os.path.exists(f"{stem}-attended.png")
    assert len(os.listdir(figures)) == 3 * len(names)
    with pytest.raises(SystemExit, match=r"attended: True in the file, '\(absent\)' now"):
        caption.main(arguments(workdir, "--output", file, "--resume", *names))
    capfd.readouterr()
    assert caption.main(arguments(workdir, "--attended", "--batch_size", BATCH, names[0])) == 0
    said = capfd.readouterr().out.splitlines()
    assert said == [f"{names[0]}\t{firsts[0]}", f"{names[0]}\tattended: {seconds[0]}"]


@pytest.mark.parametrize(
    ("fields", "more", "message"),
    [
        ({}, ["--attention", "out", "--attention_by", "layer"], "--attention_by layer: .* one map"),
        ({}, ["--attention", "out", "--attention_by", "head"], "--attention_by head: .* one map"),
        ({"attention": "none", "initial_state": "mean"}, ["--attended"], "--attended: .*attention"),
    ],
)
def test_what_a_decoder_has_no_attention_for_is_refused(monkeypatch, fields, more, message):
    config = base.get_config()
    config.decoder = base.bahdanau_decoder()
    config.decoder.update(fields)
    model = build.captioner_of(config, vocab_size=9)
    run = types.SimpleNamespace(config=config, model=model, method=lambda **_: None)
    monkeypatch.setattr(caption_images, "_load", lambda _: run)
    with pytest.raises(SystemExit, match=f"error: {message}.*; remove the flag") as caught:
        caption.main(arguments(REPOSITORY, *more, "x.jpg"))
    assert "\n" not in caught.value.code


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume", "x.jpg"], "--resume needs --output FILE"),
        (["--batch_size", "0", "x.jpg"], "'0' must be a whole number of 1 or more"),
        (["--batch_size", "-3", "x.jpg"], "batch_size"),
        (["--views", "heat", "x.jpg"], "--views needs --attention DIR"),
        (["--attention_by", "head", "x.jpg"], "--attention_by needs --attention DIR"),
        (["--attention", "out", "--views", "heat,cold", "x.jpg"], "some of overlay, heat, patches"),
        (["--attention", "out", "--views", "heat,heat", "x.jpg"], "each once"),
        (["-", "-"], "give it once"),
        ([], "images"),
    ],
)
def test_wrong_usage_has_its_own_status(more, message, capsys):
    with pytest.raises(SystemExit) as caught:
        caption.main(["--workdir", "nowhere", *more])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_has_no_checkpoints_to_choose_from(capsys):
    with pytest.raises(SystemExit) as caught:
        caption.main(["--model", "nowhere", "--checkpoint", "3", "x.jpg"])
    assert caught.value.code == 2
    assert "--checkpoint needs --workdir" in capsys.readouterr().err


def test_statuses_are_in_the_help(capsys):
    with pytest.raises(SystemExit) as caught:
        caption.main(["--help"])
    assert caught.value.code == 0
    assert caption.EXIT_STATUS.rstrip() in capsys.readouterr().out
