import csv
import io
import itertools
import json
import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capjax.data.datasets.folder import Folder
from capjax.files.errors import DataError
from tests.helpers.effort import examples

SPLITS = ("train", "validation", "test")


def write(root, rows, name="captions.jsonl"):
    """A table of these rows, dicts, and the pictures they name."""
    file = root / name
    if name.endswith(".csv"):
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
        table.writeheader()
        table.writerows(rows)
        file.write_bytes(text.getvalue().encode())
    else:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    touch(root, [row.get("image") or row.get("file_name") for row in rows])
    return str(file)


def touch(root, paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def pairs(count=20, captions=2, **more):
    return [
        {"image": f"deep/{i}.jpg", "caption": f"caption {k} of {i}"} | more
        for k in range(captions)
        for i in range(count)
    ]


def opened(file, split="train", root="", share=0.3, seed=0):
    return Folder(file, root, share, seed).open(split)


def content(source):
    return {example.image_id: example.captions for example in source}


def refused(root, text, split="train", name="captions.jsonl"):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        opened(str(root / name), split)
    return str(caught.value)


CAPTION = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    captions=st.lists(st.lists(CAPTION, min_size=1, max_size=3, unique_by=str.strip), min_size=1),
    kind=st.sampled_from(["rows.jsonl", "lists.jsonl", "rows.csv", "hf.jsonl", "hf.csv"]),
    mark=st.booleans(),
    crlf=st.booleans(),
)
def test_any_caption_is_read_back(tmp_path, captions, kind, mark, crlf):
    rows = [
        {"image": f"{i}.jpg", "caption": text, "split": SPLITS[i % 3]}
        for i, texts in enumerate(captions)
        for text in texts
    ]
    if kind.startswith("lists"):
        rows = [
            {"image": f"{i}.jpg", "captions": texts, "split": SPLITS[i % 3]}
            for i, texts in enumerate(captions)
        ]
    names = {"image": "file_name", "caption": "text"} if kind.startswith("hf") else {}
    file = write(tmp_path, [{names.get(k, k): v for k, v in row.items()} for row in rows], kind)
    raw = (tmp_path / kind).read_bytes().replace(b"\r\n", b"\n")
    raw = raw.replace(b"\n", b"\r\n") if crlf else raw
    (tmp_path / kind).write_bytes((b"\xef\xbb\xbf" if mark else b"") + raw)
    for k, split in enumerate(SPLITS[: len(captions)]):
        source = opened(file, split)
        assert source.name == f"{kind.split('.')[0]}/{split}"
        assert list(content(source).items()) == [
            (f"{i}.jpg", tuple(map(str.strip, captions[i]))) for i in range(k, len(captions), 3)
        ]
        assert [e.image for e in source] == [str(tmp_path / e.image_id) for e in source]


@pytest.mark.parametrize("table", ["captions.jsonl", "captions.csv"])
def test_line_ends_inside_of_a_caption_stay(tmp_path, table):
    captions = ("a dog\nruns", "a dog\u2028sits", "a dog\x85barks")
    rows = [{"image": "a.jpg", "caption": text, "split": "train"} for text in captions]
    assert content(opened(write(tmp_path, rows, table))) == {"a.jpg": captions}


def test_root_is_by_default_the_tables_folder(tmp_path, monkeypatch):
    file = write(tmp_path, pairs())
    train = opened(file)
    assert os.path.dirname(train[0].image) == str(tmp_path / "deep")
    (tmp_path / "tables").mkdir()
    os.rename(file, tmp_path / "tables" / "captions.jsonl")
    moved = str(tmp_path / "tables" / "captions.jsonl")
    assert opened(moved, root=str(tmp_path)).fingerprint == train.fingerprint
    with pytest.raises(DataError, match=r"missing files.*deep/"):
        opened(moved)
    monkeypatch.chdir(tmp_path / "tables")
    write(tmp_path / "tables", pairs())
    assert opened("captions.jsonl").fingerprint == train.fingerprint


def test_a_share_of_the_images_becomes_validation(tmp_path):
    file = write(tmp_path, pairs(400))
    train, validation = content(opened(file)), content(opened(file, "validation"))
    assert not train.keys() & validation.keys()
    assert len(train) + len(validation) == 400
    assert all(len(captions) == 2 for captions in (train | validation).values())
    # 400 draws at 0.3: a standard deviation of 9.
    assert abs(len(validation) - 120) < 45
    assert content(opened(file, "validation", seed=1)).keys() != validation.keys()
    more = content(opened(file, "validation", share=0.5)).keys()
    assert validation.keys() < more
    # In every process and version: another split would be another dataset.
    first = [image for image in sorted(train | validation) if image in validation][:4]
    assert first == ["deep/0.jpg", "deep/108.jpg", "deep/111.jpg", "deep/112.jpg"]
    with pytest.raises(DataError, match=r"no split 'test'; it has train \(\d+ images\), valid"):
        opened(file, "test")
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(DataError, match=r"config\.dataset\.validation_share must be between"):
            opened(file, share=share)


def test_adding_pictures_moves_no_other(tmp_path):
    before = content(opened(write(tmp_path, pairs(50)), "validation")).keys()
    rows = pairs(50)
    added = [{"image": f"new/{i}.jpg", "caption": "new"} for i in range(50)]
    after = content(opened(write(tmp_path, added + rows[::-1]), "validation")).keys()
    assert {image for image in after if not image.startswith("new/")} == before


def test_the_same_images_are_validation_however_few_there_are(tmp_path):
    """With few images there is no exception that another image would end."""
    counts = range(2, 40)
    trains = [content(opened(write(tmp_path, pairs(n)), share=0.02)).keys() for n in counts]
    for smaller, larger in itertools.pairwise(trains):
        assert smaller <= larger


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [6, 14, 40])
def test_too_small_a_share_is_refused_with_one_that_works(tmp_path, count, seed):
    file = write(tmp_path, pairs(count))
    with pytest.raises(DataError) as raised:
        opened(file, "validation", share=1e-9, seed=seed)
    message = str(raised.value)
    assert f"has {count} images, and config.dataset.validation_share=1e-09 takes 0 of" in message
    assert message.endswith("name splits in a column 'split'")
    advice = re.search(r"--config\.dataset\.validation_share=(\S+) takes (\d+)", message)
    assert advice or count == 6
    if advice:
        validation = opened(file, "validation", share=float(advice[1]), seed=seed)
        assert len(validation) == int(advice[2]) >= 2
        train = opened(file, share=float(advice[1]), seed=seed)
        assert len(train) == count - len(validation) >= len(validation)
    # Other splits can be looked at.
    assert len(opened(file, share=1e-9, seed=seed)) == count


def test_a_few_images_need_named_splits(tmp_path):
    file = write(tmp_path, pairs(5))
    with pytest.raises(DataError, match=r"has 5 images.* needs 2: name splits in a column 'split'"):
        opened(file, "validation", share=0.1)


def test_one_spelling_of_a_path_is_one_image(tmp_path):
    rows = [{"image": path, "caption": f"by {path}"} for path in ("a.jpg", "./a.jpg", ".//a.jpg")]
    for split in ("train", "validation"):
        file = write(tmp_path, [row | {"split": split} for row in rows])
        assert content(opened(file, split)) == {"a.jpg": tuple(row["caption"] for row in rows)}


def test_split_names_and_their_aliases(tmp_path):
    names = {"train": "train", "val": "validation", "dev": "validation", "Test ": "test"}
    rows = [{"image": f"{i}.jpg", "caption": "a", "split": name} for i, name in enumerate(names)]
    for table in ("captions.csv", "captions.jsonl"):
        file = write(tmp_path, rows, table)
        sizes = {split: len(opened(file, split)) for split in SPLITS}
        assert sizes == {"train": 1, "validation": 2, "test": 1}
    with pytest.raises(DataError, match=r"no split 'dev'; it has test \(1 images\), train"):
        opened(file, "dev")
    # An empty cell or null names none.
    for nothing in ("", None):
        for table in ("captions.csv", "captions.jsonl"):
            file = write(tmp_path, pairs(split=nothing), table)
            assert len(opened(file)) + len(opened(file, "validation")) == 20


def test_splits_must_be_given_to_all_or_none(tmp_path):
    rows = pairs(20)
    rows[0]["split"] = "train"
    message = "39: lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 29 more; name it in all or in none"
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path, rows))


def test_an_image_in_two_splits_is_named(tmp_path):
    rows = pairs(3, split="train")
    rows[1]["split"] = "val"
    with pytest.raises(DataError, match=r"1 images in more than one split: deep/1\.jpg;"):
        opened(write(tmp_path, rows))


GOOD = '{"image": "a.jpg", "caption": "good"}\n'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"image": "a.jpg", "caption": "a"', "is not JSON"),
        ('["a.jpg", "a"]', "is not a JSON object"),
        ('{"image": "a.jpg"}', "has no 'caption'"),
        ('{"caption": "a"}', "has no 'image'"),
        ('{"image": "a.jpg", "caption": 3}', "'caption' is 3, not text"),
        ('{"image": "", "caption": "a"}', "'image' is '', not text"),
        ('{"image": "a.jpg", "captions": ["a", 3]}', "'captions' is 3, not text"),
        ('{"image": "a.jpg", "text": "a", "caption": "b"}', "has 'caption' and 'text'"),
        ('{"image": "a.jpg", "caption": "b", "split": "training"}', "split 'training' is none of"),
        ('{"image": "a.jpg", "caption": "b", "split": 1}', "split 1 is none of"),
    ],
)
def test_unusable_rows_are_named_by_line(tmp_path, row, reason):
    message = refused(tmp_path, f"{GOOD}\n{row}\n{row}\n")
    assert message.startswith(
        f"{tmp_path / 'captions.jsonl'} has 2 unusable rows: line 3 ({reason}"
    )
    assert f", line 4 ({reason}" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,caption\na.jpg,a\nb.jpg,b, c\n", "1 unusable rows: line 3 (has 3 fields, not 2"),
        ('image,caption\na.jpg,"a\n\nb"\nb.jpg\n', "1 unusable rows: line 5 (has 1 fields, not 2"),
        ('image,caption\na.jpg,"a\n', "line 2 (is not CSV: unexpected end of data"),
        ('image,caption\na.jpg,a "b"\nb.jpg,"a"b\n', "line 3 (is not CSV"),
        ("name,words\na.jpg,a\n", "line 1 (names the columns name, words; name one image or file_"),
        ("Nr\tFoto\tText\n1\ta.jpg\ta\n", "(names the columns nr, foto, text; name one image or"),
        ("a.jpg,a\n", "line 1 (names the columns"),
        ("image,caption\n", "has no rows"),
        ("", "line 1 (names the columns"),
        (b"image,caption\na.jpg,caf\xe9\n", "is not UTF-8 text (at byte 23); save it as UTF-8"),
    ],
)
def test_unusable_csv_is_named_by_line(tmp_path, text, reason):
    assert reason in refused(tmp_path, text, name="captions.csv")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file '/nowhere\.csv'; set config\.dataset\.file to a"):
        opened("/nowhere.csv")
    assert "has another file type; config.dataset.file should be a .csv, .tsv or .jsonl" in refused(
        tmp_path, GOOD, name="captions.xml"
    )
    assert "has no rows" in refused(tmp_path, "\n\n")
    with pytest.raises(DataError, match=r"no folder '/nowhere'; set config\.dataset\.root"):
        opened(write(tmp_path, pairs()), root="/nowhere")
    for path in ("/deep/0.jpg", "../a.jpg", "a/../../b.jpg"):
        row = json.dumps({"image": path, "caption": "a", "split": "train"})
        assert f"--config.dataset.allow_outside=True): {path}" in refused(tmp_path, row)
