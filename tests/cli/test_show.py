import json

import numpy as np
import pytest
from PIL import Image

from capjax.data.captions import CaptionTable, encode_captions
from capjax.data.describe import describe_captions, draw_examples, histogram
from capjax.data.source import Example
from capjax.data.tokenizer import train_word_tokenizer
from tests.helpers.command_line import call
from tests.helpers.sources import Source

CONFIG = """
from configs import base

def get_config():
    config = base.get_config()
    config.dataset = base.folder_dataset()
    config.dataset.file = {file!r}
    config.dataset.max_length = 5
    config.tokenizer.min_count = 2
    return config
"""


@pytest.fixture(scope="module", name="config")
def make_config(tmp_path_factory):
    """A dataset of two splits, and a config that names it."""
    root = tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(6):
        Image.new("RGB", (60 + 20 * i, 80), (40 * i, 90, 20)).save(root / f"{i}.png")
        split = "validation" if i > 3 else "train"
        words = "a $red$ zebra" if i > 3 else "a $red$ dog"
        rows += [
            {"image": f"{i}.png", "caption": text, "split": split}
            for text in (f"{words} runs", f"a dog and another dog, number {i}")
        ]
    file = root / "pictures.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = root / "config.py"
    config.write_text(CONFIG.format(file=str(file)))
    return str(config)


def show(home, config, *arguments, **options):
    return call(home, "capjax.data.show", "--config", config, *arguments, **options)


def test_prints_statistics_and_draws_examples(home, config, tmp_path):
    pictures = {}
    for name, options in {"one": [], "same": [], "other": ["--config.seed=1"]}.items():
        to = tmp_path / "new" / f"{name}.png"
        done = show(home, config, "--images", "3", "--to", str(to), *options)
        assert done.stdout.splitlines()[-1] == f"wrote {to}"
        pictures[name] = to.read_bytes()
        with Image.open(to) as picture:
            assert picture.width > 900
    assert pictures["one"] == pictures["same"] != pictures["other"]
    assert "pictures/train: 4 images, 8 captions" in done.stdout
    assert "captions an image: 2 to 2, 2.0 on average" in done.stdout
    assert "words a caption: 4 to 7, 5.5 on average" in done.stdout


def test_the_vocabulary_is_the_train_splits(home, config, tmp_path):
    done = show(home, config, "--split", "validation", "--to", str(tmp_path / "a.png"))
    assert "pictures/validation: 2 images, 4 captions" in done.stdout
    assert "unknown most often: zebra 2\n" in done.stdout
    assert "longer than 5 tokens, the end counted: 2 captions (2 dropped, 0 cut)" in done.stdout
    # Of "a red zebra runs", twice.
    assert "knows 75.00% of 8 words here" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--split", "test"],
            "has no split 'test'; it has train (4 images), validation (2 images)",
        ),
        (["--config.dataset.file=/nowhere.csv"], "no file '/nowhere.csv'; set config.dataset.file"),
        (["--config.tokenizer.min_count=99"], "no word of the captions occurs 99 times"),
        (["--to", "/dev/null/a.png"], "/dev/null"),
        (["--to", "gs://bucket/a.png"], "a URL, and files are written to local folders only"),
    ],
)
def test_errors_are_one_line(home, config, arguments, message):
    done = show(home, config, *arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_numbers_of_the_description():
    captions = (("a dog", "a cat runs here"), ("a dog runs",), ("...",))
    table = CaptionTable(("1", "2", "3"), captions, "abc")
    tokenizer = train_word_tokenizer(["a dog runs"])
    encoded = encode_captions(table, tokenizer, max_length=4, over_length="cut")
    assert describe_captions(table, encoded, tokenizer).splitlines() == [
        "3 images, 4 captions",
        "captions an image: 1 to 2, 1.3 on average",
        "words a caption: 0 to 4, 2.2 on average",
        *histogram([2, 4, 3, 0]),
        "vocabulary of the train split: 7 tokens; it knows 87.50% of 8 words here",
        "unknown most often: cat 1",
        "longer than 4 tokens, the end counted: 1 captions (0 dropped, 1 cut); without a word: 1",
        "images with no caption left: 1",
    ]
    empty = CaptionTable((), (), "abc")
    encoded = encode_captions(empty, tokenizer, max_length=4, over_length="cut")
    assert "words a caption: none" in describe_captions(empty, encoded, tokenizer)


@pytest.mark.parametrize("highest", [3, 14, 15, 40, 1000])
def test_histograms_count_everything_in_few_lines(highest):
    counts = np.random.default_rng(0).integers(3, highest + 1, 500)
    counts[:2] = 3, highest
    counts[2:400] = highest  # Beside which a bar is short.
    lines = [line.split() for line in histogram(counts)]
    assert len(lines) <= 15
    for label, number, *bar in lines:
        first, _, last = label.partition("-")
        inside = (counts >= int(first)) & (counts <= int(last or first))
        assert int(number) == inside.sum()
        assert bool(bar) == inside.any()
    assert sum(int(number) for _, number, *_ in lines) == 500
    assert max(len(line) for line in histogram(counts)) <= 62
    assert histogram([]) == []


def test_pictures_of_any_kind_are_drawn(tmp_path):
    Image.new("RGB", (2, 900), "blue").save(tmp_path / "tall.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    many = tuple(f"caption {k}" for k in range(8))
    examples = [
        Example(str(tmp_path / "tall.png"), "long/" * 30 + "tall.png", many),
        Example(str(tmp_path / "bad.png"), "bad", ("word " * 90, "x" * 300)),
        Example(str(tmp_path / "tall.png"), "bare", ()),
        *[Example(str(tmp_path / "tall.png"), f"{i}", ("$a_b^{$",)) for i in range(3)],
    ]
    figure = draw_examples(Source(examples), range(6))
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.texts]
    assert any("caption 4\nand 3 more" in text for text in texts)
    assert not any("caption 5" in text for text in texts)
    assert any(text.startswith("...") and text.endswith("tall.png") for text in texts)
    words = "".join(text.get_text() for axis in figure.axes for text in axis.texts)
    assert words.replace("\n", " ").startswith("bad: not an image of a known format")
    # Nothing lies outside of the page, on another text or beneath another picture.
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    boxes += [axis.get_window_extent() for axis in figure.axes]
    for k, box in enumerate(boxes):
        assert box.x0 >= 0 <= box.y0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:k])
