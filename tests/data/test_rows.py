"""The files of images and captions that people have."""

import json

import pytest

from capjax.data.datasets.folder import Folder
from capjax.data.rows import read_rows
from capjax.files.errors import DataError


def read(root, text, name="captions.csv"):
    (root / name).write_text(text, encoding="utf-8")
    return read_rows(str(root / name))


def found(rows):
    return [(row.image, row.captions) for row in rows.rows]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image,caption\na.jpg,A dog; it runs\nb.jpg,b\n"),
        ("a.csv", 'image;caption\na.jpg;"A dog; it runs"\nb.jpg;b\n'),
        ("a.csv", 'sep=;\nimage;caption\na.jpg;"A dog; it runs"\nb.jpg;b\n'),
        ("a.tsv", "filename\ttext\na.jpg\tA dog; it runs\nb.jpg\tb\n"),
        ("a.txt", "file_name\tcaption\r\na.jpg\tA dog; it runs\r\nb.jpg\tb\r\n"),
        ("a.csv", "Image,Caption,,\na.jpg,A dog; it runs,,\n,,,\nb.jpg,b,,\n"),
        ("a.csv", "id,image,,caption\n1,a.jpg,x,A dog; it runs\n2,b.jpg,,b\n"),
        ("a.csv", "image,caption,comment\na.jpg,A dog; it runs,good\nb.jpg,b,\n"),
        ("a.csv", 'filename,captions\na.jpg,"[""A dog; it runs""]"\nb.jpg,b\n'),
        ("a.csv", "image_name| comment_number| comment\na.jpg| 0| A dog; it runs\nb.jpg| 4   b\n"),
        (
            "a.jsonl",
            '{"filename": "a.jpg", "text": ["A dog; it runs"]}\n'
            '{"image": "b.jpg", "captions": "b"}\n',
        ),
    ],
)
def test_tables_of_many_programs(tmp_path, name, text):
    assert found(read(tmp_path, text, name)) == [("a.jpg", ("A dog; it runs",)), ("b.jpg", ("b",))]


def test_repeated_and_empty_captions_are_counted(tmp_path):
    rows = [
        {"image": "a.jpg", "caption": "x"},
        {"image": "./a.jpg", "caption": "x "},
        {"image": "a.jpg", "captions": ["y", "x", "", None]},
        {"image": "b.jpg", "caption": None},
        {"image": "caf\u00e9/1.jpg", "caption": "z"},
        {"image": "cafe\u0301\\1.jpg", "caption": "w"},
    ]
    read_back = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "a.jsonl")
    assert found(read_back) == [
        ("a.jpg", ("x",)),
        ("a.jpg", ("y",)),
        ("caf\u00e9/1.jpg", ("z",)),
        ("caf\u00e9/1.jpg", ("w",)),
    ]
    assert read_back.left_out == "2 repeated captions of an image, 3 empty captions"
    with pytest.raises(DataError, match="has no rows"):
        read(tmp_path, "image,caption\na.jpg,\n")


def test_the_train_split_says_what_was_left_out(tmp_path, caplog):
    caplog.set_level("INFO", logger="capjax")
    text = "image,caption,split\n" + "a.jpg,x,train\n" * 2 + "b.jpg,y,val\n"
    (tmp_path / "a.csv").write_text(text)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    for split in ("train", "validation"):
        Folder(str(tmp_path / "a.csv")).open(split)
    assert caplog.text.count("left out 1 repeated captions of an image") == 1


def test_an_imagefolder_is_read_with_its_splits(tmp_path):
    for split, name in (("train", "metadata.jsonl"), ("test", "metadata.csv")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.png").write_bytes(b"x")
        row = {"file_name": "0.png", "text": f"of {split}"}
        text = json.dumps(row) if name.endswith("l") else f"file_name,text\n0.png,of {split}\n"
        (tmp_path / split / name).write_text(text)
    for split in ("train", "test"):
        (example,) = Folder(str(tmp_path)).open(split)
        assert example == (str(tmp_path / split / "0.png"), f"{split}/0.png", (f"of {split}",))
    (row,) = read_rows(str(tmp_path / "train")).rows
    assert (row.image, row.split) == ("0.png", "")


def test_a_folder_of_images_with_a_text_file_each(tmp_path):
    for name, text in {"a/1": "one\n\nfirst\n", "b": "two", "bare": None, "empty": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
        if text is not None:
            (tmp_path / f"{name}.txt").write_text(text)
    read_back = read_rows(str(tmp_path))
    assert sorted(found(read_back)) == [("a/1.jpg", ("one", "first")), ("b.jpg", ("two",))]
    assert read_back.left_out == "1 images without a text file, 1 empty captions"
    assert len(Folder(str(tmp_path), validation_share=1e-9).open("train")) == 2
