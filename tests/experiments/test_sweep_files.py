"""Reading the folder of a sweep: what of it counts, and files that are damaged."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capjax.metrics.coco import per_image
from experiments.comparison import compare
from experiments.sweep_files import ResultsError, read_sweep
from tests.helpers import small_sweep
from tests.helpers.effort import examples
from tests.helpers.small_sweep import cider, edit, evaluation_of


@pytest.fixture(name="sweep")
def make_sweep(tmp_path):
    small_sweep.write_small_sweep(tmp_path / "sweep")
    return tmp_path / "sweep"


def test_a_sweep_is_read_as_it_was_written(sweep):
    found = read_sweep(str(sweep))
    assert found.variants == ["base", "wide", "gru"]
    assert found.evaluations == small_sweep.EVALUATIONS
    assert [run.name for run in found.runs][:3] == ["base-seed0", "base-seed1", "wide-seed0"]
    wide = found.runs[2]
    assert wide.config["decoder.width"] == 32
    assert wide.parameters == 12345
    images = wide.evaluations["beam5"].images
    assert list(images.ids) == sorted(images.ids)
    np.testing.assert_array_equal(images.metrics["CIDEr-D"], cider(sweep, "wide-seed0"))
    captions = small_sweep.make_table()
    own = dict(zip(captions.image_ids, captions.captions, strict=True))
    assert dict(zip(images.ids, images.references, strict=True)) == own
    bleu = per_image(own, small_sweep.said("wide", 0, "beam5"))
    of_image = dict(zip(bleu.image_ids, bleu.bleu.tolist(), strict=True))
    assert images.bleu.tolist() == [of_image[image_id] for image_id in images.ids]


def test_captions_of_another_decoding_are_in_no_table(sweep):
    found = json.loads((sweep / "sweep.json").read_text())
    for run in found["runs"]:
        run["decodings"] = {"greedy": "beam1", "beam5": "beam5"}
    found["runs"][2]["decodings"]["beam5"] = "beam4"
    edit(sweep / "sweep.json", runs=found["runs"])
    runs = {run.name: list(run.evaluations) for run in read_sweep(str(sweep)).runs}
    assert runs.pop("wide-seed0") == ["greedy"]
    assert runs.pop(small_sweep.FAILED) == []
    assert all(names == ["greedy", "beam5"] for names in runs.values())


def test_an_evaluation_that_the_sweep_no_longer_has_is_not_looked_at(sweep):
    found = json.loads((sweep / "sweep.json").read_text())
    for run in found["runs"]:
        run["decodings"] = {"greedy": "beam1"}
    edit(sweep / "sweep.json", runs=found["runs"], evaluations={"greedy": {}})
    for file in sweep.rglob("*-beam5.*"):
        file.unlink()
    assert {*read_sweep(str(sweep)).runs[0].evaluations} == {"greedy"}


@pytest.mark.parametrize(
    ("mode", "status"), [("min", "done"), ("max", "done"), ("mean", "outdated")]
)
def test_a_mode_that_the_metric_implies_is_no_other_config(sweep, mode, status):
    found = json.loads((sweep / "sweep.json").read_text())
    found["runs"][0]["config"] = {"early_stopping.metric": "loss", "early_stopping.mode": "auto"}
    edit(sweep / "sweep.json", runs=found["runs"])
    file = sweep / "runs" / "base-seed0" / "config.json"
    edit(file, early_stopping={"metric": "loss", "mode": mode})
    assert read_sweep(str(sweep)).runs[0].status == status


@pytest.mark.parametrize("status", ["done", "failed"])
def test_results_of_another_config_are_in_no_table(sweep, status):
    found = json.loads((sweep / "sweep.json").read_text())
    for run in found["runs"]:
        run["config"] = {"decoder.width": 16, "decoder.later": 1} | run["overrides"]
    found["runs"][2]["config"]["decoder.width"] = 512
    found["runs"][2]["overrides"]["decoder.width"] = 512
    edit(sweep / "sweep.json", runs=found["runs"])
    edit(sweep / "runs" / "wide-seed0" / "sweep_run.json", status=status, error="it is so")
    runs = read_sweep(str(sweep)).runs
    assert [run.status for run in runs[:3]] == [
        "done",
        "done",
        {"done": "outdated"}.get(status, status),
    ]
    assert (runs[2].error, runs[2].evaluations, runs[2].parameters) == ("it is so", {}, None)
    assert len(runs[3].evaluations) == 2
    rows = {row.run: row for row in compare(read_sweep(str(sweep)), 100)}
    assert (rows["wide-seed0"].scores, rows["wide-seed0"].seconds["train"]) == ({}, None)


@pytest.mark.parametrize(("metrics", "status"), [([], "done"), (["words"], "outdated")])
def test_a_sweep_of_before_there_were_own_metrics_has_none(sweep, metrics, status):
    found = json.loads((sweep / "sweep.json").read_text())
    found["runs"][0]["config"] = {"decoder.width": 16}
    edit(sweep / "sweep.json", runs=found["runs"])
    edit(sweep / "runs" / "base-seed0" / "config.json", evaluation={"metrics": metrics})
    assert read_sweep(str(sweep)).runs[0].status == status


def cut(bleu):
    return {"matches": [row[:2] for row in bleu["matches"]]}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("images", lambda found: {"image_ids": found["image_ids"][1:]}, "11 images, but values"),
        ("images", lambda found: {"bleu": {**found["bleu"], **cut(found["bleu"])}}, r"\(12, 7\)"),
        ("images", lambda found: {"references": {}}, "KeyError"),
        ("images", lambda _: {"metrics": {"CIDEr-D": [1.0] * 12}}, "its CIDEr-D is 1, but"),
        ("metrics", lambda _: {"metrics": []}, "'metrics' is"),
        ("metrics", lambda _: {"metrics": {"CIDEr-D": "high"}}, "'high'"),
    ],
)
def test_files_that_do_not_fit_are_named(sweep, kind, change, message):
    file = evaluation_of(sweep, "wide-seed0", "beam5", kind)
    edit(file, **change(json.loads(file.read_text())))
    with pytest.raises(ResultsError, match=message) as raised:
        read_sweep(str(sweep))
    assert str(file) in str(raised.value)
    assert str(raised.value).endswith(
        f"; delete {str(file).removesuffix(f'.{kind}.json')}.* and start the sweep again"
    )


def test_a_missing_evaluation_is_named(sweep):
    file = evaluation_of(sweep, "wide-seed0", "beam5", "metrics")
    file.unlink()
    with pytest.raises(ResultsError, match="No such file") as raised:
        read_sweep(str(sweep))
    assert str(file) in str(raised.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(30))
@given(st.data())
def test_a_file_cut_anywhere_is_named(sweep, data):
    files = sorted(path for path in sweep.rglob("*.json") if "captions" not in path.name)
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    # Its last character ends the line.
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])
    try:
        with pytest.raises(ResultsError) as raised:
            read_sweep(str(sweep))
    finally:
        file.write_bytes(content)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
