"""The figures of decodings side by side."""

import pytest

from capjax.data.captions import CaptionTable
from capjax.evaluate.captioning import Caption
from experiments.decodings import COLUMNS, figures, line

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
TABLE = CaptionTable(tuple(TRUE), tuple(TRUE.values()), "")


def caption(texts):
    first, *others = (Caption(text, -1.0, -1.0, True, tuple(text.split())) for text in texts)
    return Caption(first.text, -1.0, -1.0, True, first.words, alternatives=tuple(others))


def test_figures_of_several_captions():
    row = figures(TABLE, {i: caption(texts) for i, texts in SAID.items()}, rate=2.0)
    # "birds" alone is repeated among words of four letters or more.
    assert (row["repeats"], row["words"], row["captions/s"]) == (0.25, (3 + 5 + 8 + 2) / 4, 2.0)
    assert row["distinct-2"] == 13 / 14  # "two birds" twice.
    places = {"0": 1, "1": 1, "2": 0, "3": 0}
    best = figures(TABLE, {i: caption([texts[places[i]]]) for i, texts in SAID.items()})
    assert row["oracle"] == pytest.approx(best["CIDEr-D all"])
    assert row["oracle"] > row["CIDEr-D all"]
    # Of the images 0 and 2, and 1 and 3.
    assert row["BLEU-4 even"] > row["BLEU-4 odd"]
    same = {i: caption([texts[0]] * 3) for i, texts in SAID.items()}
    assert figures(TABLE, same)["mBLEU-4"] > row["mBLEU-4"]


def test_one_caption_has_no_oracle():
    row = figures(TABLE, {i: caption(texts[:1]) for i, texts in SAID.items()})
    assert not {"oracle", "mBLEU-4"} & row.keys()
    cells = line("greedy", row).split(" | ")
    assert len(cells) == len(COLUMNS) + 1
    assert cells.count("-") == 2
