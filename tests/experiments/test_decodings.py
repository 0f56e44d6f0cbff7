"""The figures of decodings side by side."""

import numpy as np
import pytest

from capjax.files.atomic import write_json
from capjax.metrics import coco
from experiments.decodings import COLUMNS, METHODS, chosen, line, read_rows, rows_of
from experiments.diversity import HALVES, cider_d, figures

SAID = {
    "0": ["a dog runs", "a red dog runs", "a cat"],
    "1": ["two birds near two birds", "birds fly", "birds fly"],
    "2": ["a man rides a horse on a beach", "a man", "a man rides"],
    "3": ["the sea", "the sea", "the sea"],
}
TRUE = {
    "0": ("a red dog runs", "a dog runs fast"),
    "1": ("birds fly", "two birds fly over water"),
    "2": ("a man rides a horse on a beach", "a man on a horse"),
    "3": ("waves at the sea", "the sea"),
}


def test_figures_of_several_captions():
    row = figures(TRUE, SAID)
    # "birds" alone is repeated among words of four letters or more.
    assert (row["repeats"], row["words"]) == (0.25, (3 + 5 + 8 + 2) / 4)
    assert row["distinct-2"] == 13 / 14  # "two birds" twice.
    assert row["distinct-1"] == 13 / 18
    # Different words of all words of each image.
    assert row["div-1"] == pytest.approx((5 / 9 + 4 / 9 + 6 / 13 + 2 / 6) / 4)
    places = {"0": 1, "1": 1, "2": 0, "3": 0}
    best = figures(TRUE, {i: [texts[places[i]]] for i, texts in SAID.items()})
    for half in HALVES:
        assert row[f"oracle {half}"] == pytest.approx(best[f"CIDEr-D {half}"], abs=1e-3)
    assert row["oracle all"] > row["CIDEr-D all"]
    # Of the images 0 and 2, and 1 and 3.
    assert row["BLEU-4 even"] > row["BLEU-4 odd"]
    same = figures(TRUE, {i: texts[:1] * 3 for i, texts in SAID.items()})
    assert same["mBLEU-4"] > row["mBLEU-4"]


def test_the_whole_has_the_scores_of_coco():
    row = figures(TRUE, SAID)
    scores = coco.score(TRUE, {i: texts[0] for i, texts in SAID.items()}, meteor=False)
    for metric in ("BLEU-4", "CIDEr-D"):
        assert row[f"{metric} all"] == pytest.approx(scores[metric])


def test_the_device_scores_as_coco_does():
    texts = {i: [f"A {texts[0]}, twice!", texts[1]] for i, texts in SAID.items()}
    found = cider_d(TRUE, texts)
    for place in range(2):
        one = coco.per_image(TRUE, {i: own[place] for i, own in texts.items()})
        np.testing.assert_allclose(found[:, place], one.metrics["CIDEr-D"], atol=1e-3)


def test_one_caption_has_no_oracle():
    row = figures(TRUE, {i: texts[:1] for i, texts in SAID.items()})
    cells = line("greedy", {**row, "captions/s": 1.0}).split(" | ")
    assert len(cells) == len(COLUMNS) + 1
    assert cells.count("-") == 4


def row_with(even, **more):
    row = {f"CIDEr-D {half}": value for half, value in zip(HALVES, (even, 2.0, 3.0), strict=True)}
    return row | more


def test_a_setting_is_chosen_on_even_and_reported_on_odd():
    rows = [row for row in rows_of(1) if row.name in ("greedy", "beam 2", "consensus of 20, 0.5")]
    found = {"greedy": row_with(1.0), "beam 2": row_with(5.0), "consensus of 20, 0.5": row_with(9)}
    assert [*chosen(rows, found)] == [
        "beam: beam 2 has the best CIDEr-D on even: even 5.0, odd 2.0, all 3.0"
    ]


def test_a_file_gives_its_rows_to_the_same_runs_and_settings_alone(tmp_path):
    file, made = str(tmp_path / "rows.json"), {"runs": ["a"], "weights": ["1"]}
    rows = {"greedy": {"words": 1.0}, "beam 2": {"words": 2.0}, "beam 5, whole endings": {}}
    settings = {**METHODS, "beam 2": {"num_beams": 3}}
    write_json(file, {**made, "settings": settings, "rows": rows})
    assert read_rows(file, made).keys() == {"greedy", "beam 5, whole endings"}
    with pytest.raises(SystemExit, match=r"rows.json has rows of other runs \(a\)"):
        read_rows(file, {"runs": ["a"], "weights": ["2"]})
    assert read_rows(str(tmp_path / "none.json"), made) == {}
