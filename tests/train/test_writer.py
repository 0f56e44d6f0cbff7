"""Logs are cut back to a step for good: no row and no event is there twice, and none is lost."""

import json
import sys
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from capjax.train.events import read_events, write_scalars
from capjax.train.writer import Writer, read_metrics
from tests.helpers.effort import examples


def write(folder, resume_step, steps):
    with Writer(str(folder), resume_step) as writer:
        for step in steps:
            log(writer, step)


def log(writer, step):
    writer.scalars(step, "train", {"loss": 1 / step})
    if step % 2 == 0:
        writer.text(step, "captions", f"| {step} |")
        writer.image(step, "image_0", np.full((4, 5, 3), step, np.uint8))


class Wandb(types.ModuleType):
    """Stands in for the package wandb, and records its calls."""

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.config, self.finished = [], [], {}, 0

    def init(self, **options):
        self.begun.append(options)
        run = types.SimpleNamespace(id=options["id"] or "made-up", config=self)
        run.define_metric = lambda *_, **__: None
        run.log = self.logged.append
        run.finish = lambda: setattr(self, "finished", self.finished + 1)
        return run

    def update(self, values, **_):
        self.config |= values

    def Image(self, pixels):
        return pixels.shape

    def Html(self, text):
        return text


def test_wandb_gets_what_tensorboard_gets_and_is_continued(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for first in (0, 2):
        with Writer(str(tmp_path / "mine"), first, wandb_project="captions") as writer:
            writer.hyperparameters({"seed": 3, "widths": (1, 2)})
            for step in (first + 1, first + 2):
                log(writer, step)
            writer.sync()
    assert [(run["project"], run["name"], run["id"]) for run in wandb.begun] == [
        ("captions", "mine", None),
        ("captions", "mine", "made-up"),
    ]
    assert wandb.config == {"seed": 3, "widths": "(1, 2)"}
    assert wandb.logged[:4] == [
        {"train/loss": 1.0, "step": 1},
        {"train/loss": 0.5, "step": 2},
        {"captions": "<pre>| 2 |</pre>", "step": 2},
        {"image_0": (4, 5, 3), "step": 2},
    ]
    assert [row["step"] for row in wandb.logged[4:]] == [3, 4, 4, 4]
    assert wandb.finished == 2
    # Without a project, nothing is sent.
    write(tmp_path / "other", 0, [1])
    assert len(wandb.begun) == 2


def rows(folder):
    """Less what is never the same."""
    found = read_metrics(str(folder / "metrics.jsonl"))
    return [{name: row[name] for name in row if name != "wall_seconds"} for row in found]


def summaries(folder):
    files = sorted((folder / "tensorboard").iterdir())
    return [
        (event.step, value.SerializeToString())
        for file in files
        for _, event in read_events(file)
        for value in event.summary.value
    ]


@settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(starts=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 60))))
def test_logs_of_any_starts_are_those_of_one(tmp_path_factory, starts):
    """Each start goes back some steps, makes some, and is cut short by some bytes."""
    whole, parts = (tmp_path_factory.mktemp(name) for name in ("whole", "parts"))
    step, safe = 0, 0
    for back, forth, cut in starts:
        first = max(safe - back, 0)
        step = first + forth
        writer = Writer(str(parts), first)
        for number in range(first + 1, step + 1):
            log(writer, number)
        writer.sync()
        safe = step
        for file in [parts / "metrics.jsonl", *(parts / "tensorboard").iterdir()]:
            # What comes after the last sync may be lost, in part or whole.
            with open(file, "ab") as stream:
                stream.write(b'{"step": 99, "group": "train"}\n{"st'[: cut // 2])
        writer.close()
    write(parts, step, range(step + 1, step + 3))
    write(whole, 0, range(1, step + 3))
    assert rows(parts) == rows(whole)
    times = [row["wall_seconds"] for row in read_metrics(str(parts / "metrics.jsonl"))]
    assert times == sorted(times)
    assert summaries(parts) == summaries(whole)


def test_wall_seconds_leave_out_pauses_and_what_was_lost(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    for first, steps in ((0, [1, 2, 3]), (2, [3, 4])):  # The second start goes back a step.
        with Writer(str(tmp_path), first) as writer:
            for step in steps:
                now += 10
                log(writer, step)
        now += 500
    found = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [(row["step"], row["wall_seconds"]) for row in found] == [
        (1, 10),
        (2, 20),
        (3, 30),
        (4, 40),
    ]


def test_files_of_starts_that_came_to_nothing_are_removed(tmp_path):
    for _ in range(5):
        write(tmp_path, 0, [1, 2])
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_scalars_take_the_place_of_those_before(tmp_path):
    write_scalars(str(tmp_path), 9, {"a": 1.0, "b": 2.0})
    write_scalars(str(tmp_path), 7, {"a": 3.0})
    (file,) = tmp_path.iterdir()
    values = [
        (e.step, v.tag, v.simple_value) for _, e in read_events(file) for v in e.summary.value
    ]
    assert values == [(7, "a", 3.0)]


def test_damaged_rows_are_left_out_and_named(tmp_path, caplog):
    write(tmp_path, 0, [1, 2, 3])
    file = tmp_path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"\0" * len(lines[1]) + b"\n" + lines[2])
    assert [row["step"] for row in read_metrics(str(file))] == [1, 3]
    assert "metrics.jsonl: line 2 is damaged and skipped" in caplog.text
    file.write_bytes(lines[0] + lines[1] + lines[2].rstrip())
    assert [row["step"] for row in read_metrics(str(file))] == [1, 2]


def test_what_is_synced_is_on_the_disk(tmp_path):
    writer = Writer(str(tmp_path))
    log(writer, 1)
    log(writer, 2)
    writer.sync()
    assert len(summaries(tmp_path)) == 4
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in written] == [1, 2]
    writer.close()


def test_a_tensorboard_that_looks_on_is_told_what_was_cut_off(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    write(tmp_path, 2, [3])
    last = sorted((tmp_path / "tensorboard").iterdir())[-1]
    events = [event for _, event in read_events(last)]
    assert any(event.step == 3 and event.HasField("session_log") for event in events)


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_an_event_file_cut_short_is_read_up_to_there(tmp_path, length):
    write(tmp_path, 0, [1, 2])
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, whole = file.read_bytes(), read_events(file)
    file.write_bytes(content[: len(content) - length])
    assert [end for end, _ in read_events(file)] == [
        end for end, _ in whole if end <= len(content) - length
    ]


def test_tensorboard_has_the_fields_of_a_run_once(tmp_path):
    """Its hparams plugin takes session_start_info of the tag's plugin data."""
    fields = {"decoder.width": 8, "dataset.flip": True, "ema_decay": 0.5, "name": "é"}
    odd = {"temperatures": (0.0, 1.0), "length_bucket": None}
    for last in (0, 2):
        with Writer(str(tmp_path)) as writer:
            writer.hyperparameters(fields | odd)
            for step in range(1, last + 1):
                log(writer, step)
    with Writer(str(tmp_path), resume_step=1) as writer:
        log(writer, 2)
    found = [
        value.metadata.plugin_data
        for file in (tmp_path / "tensorboard").iterdir()
        for _, event in read_events(file)
        for value in event.summary.value
        if value.tag == "_hparams_/session_start_info"
    ]
    assert [data.plugin_name for data in found] == ["hparams"]
    start = HParamsPluginData.FromString(found[0].content).session_start_info
    values = {name: value.WhichOneof("kind") for name, value in start.hparams.items()}
    assert {name: getattr(start.hparams[name], kind) for name, kind in values.items()} == {
        **fields,
        "temperatures": "(0.0, 1.0)",
        "length_bucket": "None",
    }
    assert type(start.hparams["dataset.flip"].bool_value) is bool
    assert values["dataset.flip"] == "bool_value"
