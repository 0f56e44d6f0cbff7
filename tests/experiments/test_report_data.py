"""What a report shows beside its pictures: captions, curves, pieces of captions, odd input."""

import json
import os
import tempfile
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from capjax.data.source import Example
from capjax.evaluate.caption_view import pieces
from experiments.report import write_report
from experiments.report_data import ReportError, collect, read_captions, read_curves
from experiments.report_pictures import link_pictures
from experiments.sweep_files import ResultsError
from tests.helpers.command_line import python
from tests.helpers.small_sweep import EVALUATIONS, write_small_sweep

WORDS = st.lists(st.text("abcé", min_size=1, max_size=4), max_size=6)


@given(WORDS)
def test_pieces_of_words_are_the_caption(words):
    text = " ".join(words)
    found = pieces(text, words)
    assert "".join(found) == text
    assert [piece.strip() for piece in found] == words


@given(WORDS, st.randoms(use_true_random=False))
def test_pieces_of_any_tokens_are_the_caption(words, random):
    """Tokens that are parts of words, with their spaces, and parts of characters among them."""
    text, tokens = " ".join(words), []
    for place, word in enumerate(words):
        cut = random.randint(1, len(word))
        tokens += [part for part in (" " * (place > 0) + word[:cut], word[cut:]) if part]
        tokens += ["\N{REPLACEMENT CHARACTER}"] * random.randint(0, 1)
    tokens = [token for token in tokens if random.random() < 0.9]
    found = pieces(text, tokens)
    assert len(found) == len(tokens)
    assert not tokens or text.endswith("".join(found))


def test_a_prompt_is_before_the_pieces():
    words = ("a", "dog", "a", "dog")
    assert pieces("a photo of a dog a dog", words) == [" a", " dog", " a", " dog"]


@pytest.mark.parametrize(
    "name", ["a b.png", "50%25 #1?.png", "&<'\".png", "\u00e9\u05db.png", "\udce9.png"]
)
def test_links_lead_to_files_of_any_name(tmp_path, name):
    file = tmp_path / "a #1" / name
    file.parent.mkdir()
    Image.new("RGB", (4, 3)).save(file, "PNG")
    out = tmp_path / "re%20port"
    ((address, width, height),) = link_pictures([Example(str(file), "1", ())], 1, str(out), 1)
    assert (width, height) == (4, 3)
    found = urllib.parse.urlsplit(urllib.parse.urljoin(f"{out.as_uri()}/index.html", address))
    assert os.fsdecode(urllib.parse.unquote_to_bytes(found.path)) == str(file)


def write_rows(folder, rows):
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_curves_by_step_and_time(tmp_path):
    rows = [{"step": 1, "group": "train", "loss": 4.0, "step_seconds": 3.0}]
    rows += [{"step": 10, "group": "train", "loss": 3.0, "step_seconds": 0.5}]
    rows += [{"step": 5, "group": "validation", "loss": 3.5, "CIDEr-D": 1.0}]
    rows += [{"step": 12, "group": "validation", "loss": 2.5}]
    curves = read_curves(write_rows(tmp_path, rows))
    timed = {"step": [1, 10], "seconds": [3.0, 7.5], "wall_seconds": [None, None]}
    assert curves["train"] == timed | {"loss": [4.0, 3.0]}
    # Between logs and after the last at the pace there.
    assert curves["validation"]["seconds"] == [5.0, 8.5]
    assert curves["validation"]["CIDEr-D"] == [1.0, None]


def test_curves_of_samples_are_of_runs_by_a_reward(tmp_path):
    rows = [{"step": 1, "group": "train", "reward": 0.5, "kl": 0.0, "finished": 1.0, "length": 9.0}]
    train = read_curves(write_rows(tmp_path, rows))["train"]
    of_samples = {"loss": [None], "reward": [0.5], "kl": [0.0], "finished": [1.0]}
    assert {name: train[name] for name in (*of_samples,)} == of_samples
    assert train.keys() == {"step", "seconds", "wall_seconds", *of_samples}


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_wall_time_is_of_all_rows_or_of_none(has):
    rows = [{"step": step, "group": "train", "loss": 1.0} for step in range(len(has))]
    for row, timed in zip(rows, has, strict=True):
        row |= {"wall_seconds": 2.0 * row["step"]} if timed else {}
    with tempfile.TemporaryDirectory() as folder:
        found = read_curves(write_rows(Path(folder), rows))["train"]["wall_seconds"]
    assert found == ([2.0 * step for step in range(len(has))] if all(has) else [None] * len(has))


@given(st.integers(1, 2000))
def test_long_curves_are_thinned(count):
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"step": step, "group": "train", "loss": float(step)} for step in range(count)]
        curve = read_curves(write_rows(Path(folder), rows))["train"]
    assert 0 < len(curve["step"]) <= 400
    assert curve["step"] == curve["loss"] == sorted(curve["loss"])
    assert curve["seconds"] == [None] * len(curve["step"])  # Logs without times have none.


def test_a_run_that_is_in_no_sweep(tmp_path):
    write_small_sweep(tmp_path)
    for file in tmp_path.rglob("*.metrics.json"):
        record = json.loads(file.read_text()) | {"source": {"name": "x", "fingerprint": "1"}}
        file.write_text(json.dumps(record))
    alone = collect(str(tmp_path / "runs" / "gru-seed0"))
    assert [run.name for run in alone.runs] == ["gru-seed0"]
    run = collect(str(tmp_path)).runs[4]
    assert run.name == "gru-seed0"
    assert len(alone.runs[0].evaluations) == len(run.evaluations) == len(EVALUATIONS)
    for found in alone.runs[0].evaluations.values():
        assert len(read_captions(found)) == 12
    other = next((tmp_path / "runs" / "gru-seed0").rglob("*.metrics.json"))
    other.write_text(other.read_text().replace('"fingerprint": "1"', '"fingerprint": "2"'))
    with pytest.raises(ReportError, match=r"gru-seed0 \(x\) were evaluated on different data"):
        collect(str(tmp_path))


def test_of_a_run_the_latest_checkpoint_comes_first(tmp_path):
    write_small_sweep(tmp_path)
    folder = tmp_path / "runs" / "gru-seed0" / "evaluation"
    for file in list(folder.glob("validation-step40-beam1.*")):
        for step in (5, 1250):
            content = file.read_text().replace('"step": 40', f'"step": {step}')
            file.with_name(file.name.replace("step40", f"step{step}")).write_text(content)
    for file in folder.glob("*.metrics.json"):
        record = json.loads(file.read_text()) | {"source": {"name": "x", "fingerprint": "1"}}
        file.write_text(json.dumps(record))
    (run,) = collect(str(folder.parent)).runs
    names = ["step1250-beam1", "step40-beam1", "step40-beam5", "step5-beam1"]
    assert list(run.evaluations) == names


RUN = {"name": "a-seed0", "variant": "a", "seed": 0, "workdir": "runs/a", "overrides": {}}
NOT_BEGUN = {"file": "x.py", "baseline": "a", "evaluations": {"beam": {}}, "runs": [RUN]}


def test_a_sweep_that_has_not_begun(tmp_path, capsys):
    (tmp_path / "sweep.json").write_text(json.dumps(NOT_BEGUN))
    out = tmp_path / "out"
    assert write_report(str(tmp_path), str(out)) < 0.2
    assert "the page has no gallery" in capsys.readouterr().out
    assert (out / "index.html").is_file()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(ReportError, match="is not empty and no report"):
        write_report(str(tmp_path), str(tmp_path / "notes"))
    with pytest.raises(ResultsError, match="is no sweep and no run"):
        write_report(str(out), str(tmp_path / "new"))


@pytest.mark.slow(reason="a process of its own; tests/compatibility gives the command, too")
def test_the_command_line_ends_in_one_line(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps(NOT_BEGUN))
    file = tmp_path / "file"
    file.touch()
    done = python("-m", "experiments.report", tmp_path, "--to", file / "page")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert str(file) in done.stderr.splitlines()[-1]
