"""Scores and results of a split, with the images that can't be scored."""

import json
import subprocess

import numpy as np
import pytest

from capjax.data.captions import CaptionTable
from capjax.evaluate import results
from capjax.evaluate.captioning import Caption
from capjax.evaluate.scoring import image_results, score_captions
from capjax.files.atomic import write_json
from capjax.metrics import coco

TABLE = CaptionTable(
    ("1", "2", "x3"),
    (("A dog runs .", "the dog is running"), (), ("two red birds",)),
    "fingerprint",
)
SAID = {"1": "a dog runs", "2": "anything", "x3": "two birds"}


def test_images_without_captions_are_left_out_and_counted():
    metrics = score_captions(TABLE, SAID, meteor=False)
    known = {"1": TABLE.captions[0], "x3": TABLE.captions[2]}
    expected = coco.score(known, {"1": SAID["1"], "x3": SAID["x3"]}, meteor=False)
    assert metrics.pop("unscored_images") == 1
    assert metrics == pytest.approx(expected)
    assert metrics.keys() == set(coco.METRICS)


def test_further_scorers_see_every_caption():
    def count(hypotheses, references):
        return {"count": float(len(hypotheses)), "known": float(len(references))}

    metrics = score_captions(TABLE, SAID, [count], meteor=False)
    assert (metrics["count"], metrics["known"]) == (3, 2)


def test_a_split_without_any_reference_is_not_scored():
    bare = CaptionTable(("1",), ((),), "")
    assert score_captions(bare, {"1": "a dog"}) == {"unscored_images": 1.0}


def test_image_results_make_the_scores_again_without_the_dataset():
    written = image_results(TABLE, SAID, [lambda said: {"words": dict.fromkeys(said, 2.0)}])
    images = json.loads(json.dumps(written))
    assert images == written
    assert images["image_ids"] == ["1", "x3"]
    assert images["references"] == {"1": list(TABLE.captions[0]), "x3": ["two red birds"]}
    metrics = score_captions(TABLE, SAID, meteor=False)
    for name in ("ROUGE-L", "CIDEr-D"):
        assert np.mean(images["metrics"][name]) == pytest.approx(metrics[name], abs=1e-9)
    assert images["metrics"]["words"] == [2.0, 2.0]
    bleu = images["bleu"]
    sums = [*np.sum(bleu["matches"], axis=0), *np.sum(bleu["totals"], axis=0)]
    values = coco.bleu_of([*sums, sum(bleu["reference_lengths"])])
    assert values == pytest.approx([metrics[f"BLEU-{n}"] for n in range(1, 5)], abs=1e-9)


def test_without_any_reference_there_are_image_results_of_no_image():
    images = image_results(CaptionTable(("1",), ((),), ""), {"1": "a dog"})
    assert images.keys() == image_results(TABLE, SAID).keys()
    assert not images["image_ids"]


def test_results_have_cocos_integer_ids():
    captions = {name: Caption(name, 0.0, 0.0, True, ()) for name in ("12", "007", "0", "a1", "٣")}
    ids = [row["image_id"] for row in results.coco_results(captions)]
    assert ids == [12, "007", 0, "a1", "٣"]


def test_json_is_written_whole(tmp_path):
    write_json(str(tmp_path / "deep" / "x.json"), {"é": 1})
    assert json.loads((tmp_path / "deep" / "x.json").read_text(encoding="utf-8")) == {"é": 1}
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["x.json"]


def test_the_code_version_needs_no_git(monkeypatch):
    assert results.code_version().keys() == {"capjax", "commit", "jax", "backend"}

    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert results.code_version()["commit"] in ("unknown", "no checkout")
