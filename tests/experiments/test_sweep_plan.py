"""From sweep files and command lines to runs."""

import json
import re
from pathlib import Path

import pytest

from configs import base
from experiments.sweep_plan import (
    RunRecord,
    check_unchanged,
    make_run,
    make_runs,
    read_record,
    read_sweep_file,
    sweep_record,
    write_record,
    write_sweep,
)
from experiments.variants import Sweep, SweepError, Variant, values

SHIPPED = [
    "experiments/shapes_variants.py",
    "experiments/flickr8k_variants.py",
    "experiments/flickr8k_variants.py:finalists",
    "experiments/flickr8k_recurrent.py",
    "experiments/coco_variants.py",
    "experiments/coco_variants.py:karpathy",
]


def small_sweep(**fields):
    whole = {
        "config": base.get_config,
        "variants": [
            Variant("plain"),
            Variant("gru", {"decoder": base.bahdanau_decoder(), "decoder.cell": "gru"}),
        ],
        "evaluations": {"greedy": {"num_beams": 1}, "own": {}},
        "baseline": "plain",
        "seeds": (4, 5),
    }
    return Sweep(**{**whole, **fields})


def test_runs_are_every_variant_with_every_seed():
    runs = make_runs(small_sweep())
    assert [run.name for run in runs] == ["plain-seed4", "gru-seed4", "plain-seed5", "gru-seed5"]
    assert [run.config.seed for run in runs] == [4, 4, 5, 5]
    assert [run.evaluations["greedy"].decoding.num_beams for run in runs] == [1] * 4
    assert [run.evaluations["own"].decoding.num_beams for run in runs] == [5] * 4
    assert runs[0].overrides == {}
    decoder = runs[1].config.decoder
    assert runs[1].overrides == {
        f"decoder.{name}": value
        for name, value in decoder.items()
        if base.transformer_decoder().get(name) != value
    }
    one = make_run(small_sweep(), "gru-seed5")
    assert (one.config, one.overrides) == (runs[3].config, runs[3].overrides)


def test_a_config_that_is_one_object_is_left_as_it_is():
    whole = base.get_config()
    runs = make_runs(small_sweep(config=lambda: whole))
    assert [(run.config, run.overrides) for run in runs] == [
        (run.config, run.overrides) for run in make_runs(small_sweep())
    ]
    assert whole == base.get_config()


def test_the_command_line_is_for_all_runs_and_comes_last():
    sweep = small_sweep(variants=values("num_steps", (200, 300)), baseline="num_steps200")
    fields = ["--config.batch_size=8", "--config.evaluation.temperatures=(0.5,)"]
    runs = make_runs(sweep, fields)
    assert {run.config.batch_size for run in runs} == {8}
    assert {run.config.evaluation.temperatures for run in runs} == {(0.5,)}
    # What all runs have is no difference.
    assert [run.overrides for run in runs[:2]] == [{"num_steps": 200}, {"num_steps": 300}]
    assert {r.config.num_steps for r in make_runs(sweep, ["--config.num_steps=150"])} == {150}


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({}, ["--config.batch_siz=8"], "variant plain: --config.batch_siz=8: there is no such"),
        # Of one variant's decoder alone.
        ({}, ["--config.decoder.num_layers=1"], "variant gru: --config.decoder.num_layers=1"),
        ({}, ["--config.batch_size=x"], "config.batch_size"),
        ({}, ["--config.batch_size=-1"], "config.batch_size=-1 must be 1 to 65536"),
        ({}, ["--batch_size=8"], "unexpected argument '--batch_size=8'"),
        ({"evaluations": {"e": {"num_beam": 1}}}, [], "evaluation e: decoding.num_beam: there is"),
        ({"evaluations": {"e": {"num_beams": 0}}}, [], "evaluation e: config.decoding.num_beams=0"),
        (
            {"variants": [Variant("a", lambda config: config.decoder.update(widht=1))]},
            [],
            "variant a: config.decoder with name 'transformer' has no widht; did you mean dec",
        ),
        ({"variants": [Variant("a", lambda config: config.nothing.x)]}, [], "variant a: "),
    ],
)
def test_mistakes_name_the_variant_and_the_field(fields, arguments, message):
    with pytest.raises(SweepError) as raised:
        make_runs(small_sweep(**fields), arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_run_is_answered():
    with pytest.raises(SweepError, match="the runs are plain-seed4, gru-seed4"):
        make_run(small_sweep(), "plain-seed6")


@pytest.mark.parametrize("source", SHIPPED)
def test_shipped_sweeps_have_configs_that_can_be(source):
    sweep = read_sweep_file(source)
    runs = make_runs(sweep)
    assert len(runs) == len(sweep.seeds) * len(sweep.variants)
    # No two alike.
    assert len({json.dumps(run.overrides, sort_keys=True) for run in runs}) == len(sweep.variants)
    budgets = {(run.config.num_steps, run.config.batch_size) for run in runs}
    assert len(budgets) == 1


def test_the_example_of_the_readme_is_a_sweep(tmp_path):
    text = Path("experiments/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "example.py"
    file.write_text(code, encoding="utf-8")
    assert len(make_runs(read_sweep_file(str(file)))) == 2 * (1 + 1 + 4 + 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("x = 1", "this one has no get_sweep()"),
        ("def get_sweep(): return 3", "this one returns 3"),
        ("def get_sweep():\n    return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def get_sweep(:", "SyntaxError"),
        (
            "from experiments.variants import *\ndef get_sweep():\n"
            "    return Sweep(None, [Variant('a')] * 2, {'e': {}}, 'a')",
            "two variants have the name a",
        ),
    ],
)
def test_a_file_that_gives_no_sweep_is_answered(tmp_path, text, message):
    file = tmp_path / "sweep.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SweepError) as raised:
        read_sweep_file(str(file))
    assert message in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_run_must_be_as_the_sweep_wrote_it(tmp_path):
    sweep = small_sweep(variants=values("evaluation.temperatures", ((0.5,),)))
    runs = make_runs(sweep)
    with pytest.raises(SweepError, match=r"sweep.json can't be read"):
        check_unchanged(str(tmp_path), runs[0])
    write_sweep(str(tmp_path), sweep_record("file.py", sweep, runs))
    check_unchanged(str(tmp_path), runs[0])
    # Wherever it came from; what may change while a run is trained may change here, too.
    for field in ("--config.num_steps=7000", "--config.decoder.width=32"):
        with pytest.raises(SweepError, match="has changed since"):
            check_unchanged(str(tmp_path), make_runs(sweep, [field])[0])
    check_unchanged(str(tmp_path), make_runs(sweep, ["--config.log_every=7"])[0])


def test_a_record_comes_back_and_a_damaged_one_is_begun_again(tmp_path):
    record = RunRecord("failed", "why", {"train": 1.5, "evaluate": 0.0}, 2.0, 3.0, 4, 5, {"a": "b"})
    write_record(str(tmp_path), record)
    assert read_record(str(tmp_path)) == record
    for damage in ("{", "[]", '{"other": 1}'):
        (tmp_path / "sweep_run.json").write_text(damage)
        assert read_record(str(tmp_path)) == RunRecord()
