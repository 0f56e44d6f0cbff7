"""The table of a sweep: every number by another way, and whatever of a sweep is there."""

import csv
import itertools
import json
import shutil
import sys

import numpy as np
import pytest

from capjax.data.captions import CaptionTable
from capjax.metrics.coco import bleu_of
from experiments import results
from experiments.comparison import compare, differing_fields
from experiments.results import write_results
from experiments.sweep_files import read_sweep
from tests.helpers import small_sweep
from tests.helpers.small_sweep import cider, edit, evaluation_of

RESAMPLES = 1000


@pytest.fixture(scope="module", name="whole")
def make_whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    small_sweep.write_small_sweep(folder)
    return folder


@pytest.fixture(name="sweep")
def copy_sweep(whole, tmp_path):
    """One that a test may change."""
    return shutil.copytree(whole, tmp_path / "sweep")


@pytest.fixture(scope="module", name="rows")
def make_rows(whole):
    rows = compare(read_sweep(str(whole)), RESAMPLES)
    return {(row.evaluation, row.run or row.variant): row for row in rows}


def test_columns_are_what_differs_between_variants(whole, rows, sweep):
    names = ["decoder.width", "objective.weights", "decoder.cell"]
    assert differing_fields(read_sweep(str(whole))) == names
    assert list(rows["greedy", "base"].fields.values()) == [16, [1], "lstm"]
    assert list(rows["greedy", "wide"].fields.values()) == [32, [0.5, 0.5], "lstm"]
    assert list(rows["greedy", "gru"].fields.values()) == [24, [1], "gru"]
    # What all override alike is no difference, and neither are other seeds.
    found = json.loads((sweep / "sweep.json").read_text())
    found["runs"].pop(2)
    for run in found["runs"]:
        run["overrides"] |= {"num_steps": 7, "decoder.width": 8}
    edit(sweep / "sweep.json", runs=found["runs"])
    assert differing_fields(read_sweep(str(sweep))) == names[1:]


def test_there_is_a_row_for_each_run_and_variant_in_each_evaluation(rows):
    names = [f"{variant}{seed}" for variant in small_sweep.VARIANTS for seed in ("", *"01")]
    names = [name.replace("0", "-seed0").replace("1", "-seed1") for name in names]
    assert list(rows) == [*itertools.product(small_sweep.EVALUATIONS, names)]
    failed, gru = rows["beam5", "gru-seed1"], rows["beam5", "gru"]
    assert (failed.status, failed.error, failed.seeds) == ("failed", small_sweep.ERROR, (1,))
    assert not failed.scores
    assert (gru.status, gru.error, gru.seeds) == ("1 done, 1 failed", small_sweep.ERROR, (0,))
    assert gru.seconds["train"] == 60.0  # The failed run has 61.
    wide = rows["beam5", "wide"]
    assert (wide.status, wide.seeds, wide.images) == ("2 done", (0, 1), 12)
    assert wide.seconds == {"train": 60.5, "evaluate": 4.0}
    assert rows["greedy", "wide"].seconds == {"train": 60.5, "evaluate": 3.0}
    assert (wide.captions_per_second, wide.peak_memory_mib) == (1000.5, 501.0)
    assert (wide.parameters, wide.trainable_parameters) == (12345, 2345)


def test_a_variant_is_the_mean_of_its_seeds(whole, rows):
    for metric in ("BLEU-4", "CIDEr-D", "loss"):
        values = [
            json.loads(evaluation_of(whole, f"wide-seed{seed}", "beam5", "metrics").read_text())[
                "metrics"
            ][metric]
            for seed in (0, 1)
        ]
        score = rows["beam5", "wide"].scores[metric]
        assert score.value == pytest.approx(np.mean(values))
        assert score.deviation == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))
        single = rows["beam5", "wide-seed1"].scores[metric]
        assert (single.value, single.deviation) == (values[1], None)
    assert rows["beam5", "wide"].scores["loss"].low is None


SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=12)))


@pytest.mark.parametrize("variant", ["wide", "gru"])
def test_p_is_of_scores_averaged_over_the_seeds_that_both_have(whole, rows, variant):
    seeds = rows["beam5", variant].seeds
    mine, theirs = (
        np.mean([cider(whole, f"{name}-seed{seed}") for seed in seeds], axis=0)
        for name in (variant, "base")
    )
    change = mine - theirs
    score = rows["beam5", variant].scores["CIDEr-D"]
    assert score.difference == pytest.approx(change.mean())
    exact = np.mean(np.abs(SIGNS @ change) >= abs(change.sum()) - 1e-9)
    assert score.p == pytest.approx(exact, abs=0.04)
    draws = np.random.default_rng(5).integers(12, size=(4000, 12))
    for found, values in (
        ((score.low, score.high), mine),
        ((score.difference_low, score.difference_high), change),
    ):
        expected = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
        assert found == pytest.approx(tuple(expected), abs=0.1 * np.ptp(expected))


def test_intervals_hold_the_values_and_the_baseline_has_no_p(rows):
    for (_, name), row in rows.items():
        for metric, score in row.scores.items():
            if metric != "loss":
                assert score.low < score.value < score.high
            if name.startswith("base"):
                assert score.difference is score.difference_low is score.p is None
            elif metric != "loss":
                assert score.difference_low <= score.difference <= score.difference_high
                assert 1 / (RESAMPLES + 1) <= score.p <= 1


def test_p_of_bleu_is_of_the_corpus_and_exchanges_the_seeds_together(whole, rows):
    runs = {run.name: run for run in read_sweep(str(whole)).runs}
    differences = 0
    for seed in (0, 1):
        mine, theirs = (
            runs[f"{name}-seed{seed}"].evaluations["beam5"].images.bleu for name in ("wide", "base")
        )
        kept = (1 + SIGNS) / 2
        sides = kept @ mine + (1 - kept) @ theirs, kept @ theirs + (1 - kept) @ mine
        differences = differences + (bleu_of(sides[0]) - bleu_of(sides[1])) / 2
    # The last has no image exchanged.
    exact = np.mean(np.abs(differences) >= np.abs(differences[-1]) - 1e-9, axis=0)
    for n in range(4):
        score = rows["beam5", "wide"].scores[f"BLEU-{n + 1}"]
        assert score.difference == pytest.approx(differences[-1, n])
        assert score.p == pytest.approx(exact[n], abs=0.03)


def test_what_is_not_there_yet_is_a_row_without_numbers(sweep):
    for folder in (sweep / "runs").iterdir():
        if folder.name not in ("wide-seed0", "gru-seed0"):
            shutil.rmtree(folder)
    edit(sweep / "runs" / "gru-seed0" / "sweep_run.json", status="begun", evaluations={})
    found = read_sweep(str(sweep))
    assert [run.status for run in found.runs][:3] == ["waiting", "waiting", "done"]
    rows = {row.run or row.variant: row for row in compare(found, RESAMPLES)}
    assert rows["wide"].status == "1 done, 1 waiting"
    # There is no baseline to compare with, and an interval all the same.
    score = rows["wide"].scores["CIDEr-D"]
    assert (score.difference, score.p, score.low < score.high) == (None, None, True)
    # Until a run has its config, its fields are those that it overrides.
    assert list(rows["base"].fields.values()) == [None, None, None]
    assert "| base |" in write_results(str(sweep), resamples=RESAMPLES)
    shutil.rmtree(sweep / "runs")
    assert "6 waiting" in write_results(str(sweep), resamples=RESAMPLES)


def test_differences_are_of_the_same_seeds_for_each_metric(sweep):
    def give(run, **metrics):
        file = evaluation_of(sweep, run, "beam5", "metrics")
        edit(file, metrics=json.loads(file.read_text())["metrics"] | metrics)

    for run, value in (("base-seed0", 10.0), ("base-seed1", 30.0), ("wide-seed0", 11.0)):
        give(run, METEOR=value)
    give("base-seed1", rate=0.5)
    for seed in (0, 1):
        give(f"wide-seed{seed}", rate=0.25 * seed)
    rows = compare(read_sweep(str(sweep)), RESAMPLES)
    rows = {row.run or row.variant: row.scores for row in rows if row.evaluation == "beam5"}
    assert rows["wide-seed0"]["METEOR"].difference == 1.0
    assert rows["base"]["METEOR"].value == 20.0
    # Of one seed of two there is no mean, and with one baseline no difference but its own.
    assert "METEOR" not in rows["wide"]
    assert "rate" not in rows["base"]
    assert (rows["wide"]["rate"].value, rows["wide"]["rate"].difference) == (0.125, -0.25)


def test_without_single_images_there_are_values_and_no_intervals(sweep):
    for run in ("wide-seed0", "wide-seed1"):
        evaluation_of(sweep, run, "beam5", "images").unlink()
    rows = {row.variant: row for row in compare(read_sweep(str(sweep)), RESAMPLES) if not row.run}
    score = rows["wide"].scores["CIDEr-D"]
    assert score.low is score.p is score.difference_low is None
    assert score.difference > 0 < score.deviation
    assert rows["gru"].scores["CIDEr-D"].p is not None


def test_runs_of_other_images_are_not_paired(sweep):
    table = small_sweep.make_table()
    table = CaptionTable(table.image_ids[1:], table.captions[1:], "")
    said = small_sweep.said("wide", 0, "beam5")
    said.pop(small_sweep.make_table().image_ids[0])
    stem = str(evaluation_of(sweep, "wide-seed0", "beam5", "images")).removesuffix(".images.json")
    small_sweep.write_evaluation(stem, table, said)
    rows = compare(read_sweep(str(sweep)), RESAMPLES)
    rows = {row.run or row.variant: row for row in rows if row.evaluation == "beam5"}
    score = rows["wide-seed0"].scores["CIDEr-D"]
    assert score.low < score.value < score.high
    assert score.p is score.difference_low is None
    assert rows["wide"].scores["CIDEr-D"].low is None
    assert rows["wide-seed1"].scores["CIDEr-D"].p is not None


def test_the_same_sweep_gives_the_same_files(sweep):
    write_results(str(sweep), resamples=RESAMPLES)
    files = sorted(sweep.glob("results.*"))
    assert [file.suffix for file in files] == [".csv", ".json", ".md"]
    before = [file.read_bytes() for file in files]
    write_results(str(sweep), resamples=RESAMPLES)
    assert [file.read_bytes() for file in files] == before


def test_csv_has_the_numbers_of_the_json(sweep):
    write_results(str(sweep), resamples=RESAMPLES)
    found = json.loads((sweep / "results.json").read_text())
    assert found["intervals"] == {"confidence": 0.95, "resamples": RESAMPLES, "seed": 0}
    assert found["code"]["commit"] == "abc"
    assert found["evaluated_by"] == [{"commit": "abc"}]
    with (sweep / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found["rows"]) == 18
    for line, row in zip(lines, found["rows"], strict=True):
        assert (line["variant"], line["run"]) == (row["variant"], row["run"] or "")
        assert line["error"] == (row["error"] or "")
        assert line["config.decoder.cell"] == row["fields"]["decoder.cell"]
        for metric, score in row["scores"].items():
            for part, value in score.items():
                name = metric if part == "value" else f"{metric}_{part}"
                assert line[name] == ("" if value is None else str(value))


def test_markdown_has_the_best_first_and_bold(sweep):
    text = write_results(str(sweep), resamples=RESAMPLES)
    assert (sweep / "results.md").read_text() == text
    _, greedy, beam5, runs = text.split("\n## ")
    assert beam5.startswith("beam5 (num_beams=5, length_penalty=0.7, 12 images)\n")
    for table in (greedy, beam5):
        header, _, *lines = table.strip().split("\n")[2:]
        assert header.startswith("| variant | decoder.width | objective.weights | decoder.cell |")
        assert header.endswith("| Δ CIDEr-D | p |")
        assert [line.split(" | ")[0] for line in lines] == ["| wide", "| base", "| gru"]
        assert [line.count("**") for line in lines] == [12, 0, 0]
        assert {line.count("|") for line in (header, *lines)} == {18}
    assert "| wide | 32 | (0.5, 0.5) | lstm | 2 done | 12,345 | 1 min 00 s |" in beam5
    assert "- gru-seed1: error: config.decoder.cell='gru' \\| out of memory" in runs
    assert runs.count("| base-seed0 |") == 2
    other = write_results(str(sweep), metric="BLEU-4", resamples=RESAMPLES)
    assert "| Δ BLEU-4 | p |" in other


def test_crops_that_all_seeds_share_are_told(sweep):
    said = "± leaves out the randomness of crops"
    assert said not in write_results(str(sweep), resamples=RESAMPLES)
    file = sweep / "runs" / "wide-seed0" / "config.json"
    for cache, views in (("float16", 1), ("", 6), ("float16", 6)):
        edit(file, encoder={"cache": cache, "cache_views": views})
        text = write_results(str(sweep), resamples=RESAMPLES)
        assert (said in text) == (cache == "float16" and views == 6)


def test_the_least_loss_is_the_best(sweep):
    for run, loss in (("wide-seed0", 1.0), ("wide-seed1", 1.0), ("gru-seed0", 4.0)):
        file = evaluation_of(sweep, run, "greedy", "metrics")
        edit(file, metrics=json.loads(file.read_text())["metrics"] | {"loss": loss})
    text = write_results(str(sweep), metric="loss", resamples=RESAMPLES)
    lines = text.split("\n## ")[1].strip().split("\n")[4:]
    assert [line.split(" | ")[0] for line in lines] == ["| wide", "| base", "| gru"]
    assert "| **1.000** ± 0.000 |" in lines[0]
    assert "| 4.000 |" in lines[2]
    assert lines[2].endswith("| +1.500 |")


def test_many_fields_are_a_list(sweep):
    found = json.loads((sweep / "sweep.json").read_text())
    found["runs"][2]["overrides"] |= {f"encoder.field{i}": i for i in range(9)}
    edit(sweep / "sweep.json", runs=found["runs"])
    text = write_results(str(sweep), resamples=RESAMPLES)
    assert "| variant | status |" in text
    assert "- base: decoder.width=16, objective.weights=(1), decoder.cell=lstm\n" in text
    assert "- wide: decoder.width=32, objective.weights=(0.5, 0.5), encoder.field0=0, " in text
    assert "- gru: decoder.width=24, decoder.cell=gru\n" in text


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["results", *map(str, arguments)])
    results.main()


def test_the_command_line_prints_what_it_writes(monkeypatch, capsys, sweep):
    call(monkeypatch, sweep, "--metric", "ROUGE-L", "--resamples", "100")
    text = (sweep / "results.md").read_text()
    assert capsys.readouterr().out == text
    assert "Δ ROUGE-L" in text
    assert "100 resamples" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--metric", "BLEU"], 1, "no evaluation has the metric 'BLEU'; there are loss, BLEU-1"),
        (["--resamples", "10"], 2, "10 resamples are too few: give at least 100"),
    ],
)
def test_mistakes_are_answered(monkeypatch, capsys, whole, arguments, status, message):
    with pytest.raises(SystemExit) as left:
        call(monkeypatch, whole, *arguments)
    assert left.value.code == status
    assert message in capsys.readouterr().err


def test_what_is_no_sweep_is_said_in_one_line(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        call(monkeypatch, tmp_path)
    said = capsys.readouterr().err
    assert left.value.code == 1
    assert said.startswith(f"error: {tmp_path} is no sweep: it has no sweep.json")
    assert said.count("\n") == 1
