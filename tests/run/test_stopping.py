"""Which number chooses a run's checkpoints, from its first step to its evaluation."""

import json

import pytest

import capjax
from capjax.config import build
from capjax.run.evaluate import evaluate
from capjax.run.stopping import new_stopping, restored_stopping
from capjax.run.train import train
from capjax.run.workdir import Workdir
from configs import base
from tests.helpers.killed import train_until_killed
from tests.helpers.small_pictures import write_pictures

REFERENCES = (("a dog",), ("a cat",), ())


def config_of(**changes):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    return config


def label(config):
    return build.decoding_method(config.decoding).label


def test_a_run_begins_with_its_configs_metric(caplog):
    config = config_of()
    stopping = new_stopping(config, REFERENCES)
    assert (stopping.metric, stopping.mode) == ("CIDEr-D", "auto")
    assert stopping.decoding == label(config)
    assert not caplog.text


@pytest.mark.parametrize(
    ("references", "said"),
    [([["a dog"], []], "1 image,"), ([["a dog"], ["A dog."]], "2 images,")],
)
def test_the_loss_chooses_where_cider_is_0_for_any_caption(references, said, caplog):
    stopping = new_stopping(config_of(**{"early_stopping.patience": 3}), references)
    assert (stopping.metric, stopping.mode, stopping.patience) == ("loss", "auto", 3)
    assert f"CIDEr-D is 0 for any caption of validation's {said}" in caplog.text
    assert "checkpoints are chosen by loss" in caplog.text


def test_another_metric_does_not_need_cider(caplog):
    stopping = new_stopping(config_of(**{"early_stopping.metric": "BLEU-4"}), [["a dog"]])
    assert stopping.metric == "BLEU-4"
    assert not caplog.text


PROGRESS = {"metric": "CIDEr-D", "mode": "max", "best": 5.0, "waited": 2, "evaluated": 30}


def restored(config, **changes):
    progress = {"decoding": label(config), **PROGRESS, **changes}
    stopping = restored_stopping(config, progress, 40)
    assert stopping.evaluated == 30
    assert stopping.decoding == label(config)
    return stopping.metric, stopping.best, stopping.waited


def test_a_run_continues_with_the_metric_that_it_recorded():
    assert restored(config_of()) == ("CIDEr-D", 5.0, 2)
    assert restored(config_of(), metric="loss", mode="auto") == ("loss", 5.0, 2)
    imported = {"metric": "loss", "mode": "auto", "decoding": "", "best": None, "waited": 0}
    assert restored_stopping(config_of(), imported, 7).evaluated == 7


def test_the_best_starts_anew_with_another_decoding_except_for_the_loss():
    assert restored(config_of(), decoding="beam9") == ("CIDEr-D", None, 0)
    assert restored(config_of(), decoding="beam9", metric="loss", mode="min") == ("loss", 5.0, 2)


def test_the_best_starts_anew_where_it_was_the_worst():
    assert restored(config_of(), metric="loss", mode="max") == ("loss", None, 0)


def small_config(pictures, workdir):
    config = config_of(
        **{
            "batch_size": 4,
            "num_steps": 3,
            "eval_every": 1,
            "log_every": 1,
            "optimizer.warmup_steps": 1,
            "evaluation.batch_size": 4,
            "evaluation.num_samples": 0,
            "decoding.num_beams": 1,
            "decoding.max_length": 5,
        }
    )
    config.dataset = base.folder_dataset()
    config.dataset.update(file=str(pictures / "captions.csv"), cache_dir=str(workdir / "cache"))
    config.dataset.update(image_size=16, max_length=8)
    config.encoder.update(width=8, depth=1, num_heads=2)
    config.decoder.update(width=8, num_layers=1, num_heads=2)
    return config


def progress_of(workdir, config):
    """Of each checkpoint by its step, and the ranking."""
    with Workdir(workdir).checkpoints(config, read_only=True) as checkpoints:
        found = {step: checkpoints.progress(step) for step in checkpoints.steps()}
        return found, checkpoints.ranking()


@pytest.mark.slow(reason="a whole run; what such a split is chosen by is tested every day")
def test_a_run_with_one_validation_image_keeps_its_least_loss(tmp_path, caplog):
    write_pictures(tmp_path)
    table = tmp_path / "captions.csv"
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(row for row in rows if not row.startswith(("13.png", "14.png"))))
    config = small_config(tmp_path, tmp_path)
    train(config, str(tmp_path / "run"))
    assert caplog.text.count("CIDEr-D is 0 for any caption of validation's 1 image,") == 1
    progress, ranking = progress_of(tmp_path / "run", config)
    losses = {step: found["metrics"]["loss"] for step, found in progress.items()}
    assert ranking[0] == min(losses, key=losses.get)
    assert {found["metric"] for found in progress.values()} == {"loss"}
    assert capjax.load(tmp_path / "run").step == ranking[0]
    evaluate(config, str(tmp_path / "run"), split="validation", checkpoint="best")
    (file,) = (tmp_path / "run" / "evaluation").glob("*.metrics.json")
    assert json.loads(file.read_text())["chosen"] == "best loss on validation"


@pytest.mark.slow(reason="a second run; what it consists of is tested by itself every day")
def test_a_run_continued_with_another_decoding_is_ranked_by_it(tmp_path, monkeypatch):
    write_pictures(tmp_path)
    config, run = small_config(tmp_path, tmp_path), tmp_path / "run"
    train_until_killed(monkeypatch, config, str(run), update=2)
    before = label(config)
    config.decoding.num_beams = 2
    train(config, str(run))
    progress, ranking = progress_of(run, config)
    assert {progress[step]["decoding"] for step in (2, 3)} == {label(config)}
    assert set(ranking[:2]) == {2, 3}
    # The loader's config is the one that the run began with.
    assert label(Workdir(run).load_config()) == before
    assert capjax.load(run).step == ranking[0]
