import json

import pytest

from capjax.data.datasets.karpathy import Karpathy
from capjax.files.errors import DataError

SPLITS = ["train"] * 3 + ["restval"] * 2 + ["val", "test"]


def sentence(text):
    return {"raw": text, "tokens": text.lower().strip(" .").split(), "sentid": 1, "imgid": 1}


def image(i, split, coco=True):
    row = {"split": split, "filename": f"{i}.jpg", "imgid": i}
    row["sentences"] = [sentence(f"Caption {k} of {i}.") for k in range(2)]
    return row | ({"filepath": "val2014", "cocoid": 1000 + i} if coco else {})


def make(root, images, name="dataset_coco.json"):
    for row in images:
        path = root / row.get("filepath", "") / row["filename"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row["filename"].encode())
    file = root / name
    file.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return str(file)


@pytest.fixture(name="coco")
def make_coco(tmp_path):
    return make(tmp_path, [image(i, split) for i, split in enumerate(SPLITS)])


def ids(source):
    return [example.image_id for example in source]


def test_reads_coco(coco, tmp_path):
    train = Karpathy(coco, str(tmp_path)).open("train")
    assert train.name == "dataset_coco/train+restval"
    assert ids(train) == ["1000", "1001", "1002", "1003", "1004"]
    assert train[4] == (
        str(tmp_path / "val2014" / "4.jpg"),
        "1004",
        ("Caption 0 of 4.", "Caption 1 of 4."),
    )
    small = Karpathy(coco, str(tmp_path), restval=False).open("train")
    assert (small.name, ids(small)) == ("dataset_coco/train", ["1000", "1001", "1002"])
    for restval in (True, False):
        validation = Karpathy(coco, str(tmp_path), restval=restval).open("validation")
        assert (validation.name, ids(validation)) == ("dataset_coco/val", ["1005"])
        assert ids(Karpathy(coco, str(tmp_path), restval=restval).open("test")) == ["1006"]


def test_reads_flickr8k(tmp_path):
    images = [image(i, split, coco=False) for i, split in enumerate(SPLITS) if split != "restval"]
    del images[0]["sentences"][0]["raw"]
    file = make(tmp_path, images, "dataset_flickr8k.json")
    train = Karpathy(file, str(tmp_path)).open("train")
    assert (train.name, ids(train)) == ("dataset_flickr8k/train", ["0.jpg", "1.jpg", "2.jpg"])
    assert train[0].image == str(tmp_path / "0.jpg")
    assert train[0].captions == ("caption 0 of 0", "Caption 1 of 0.")


@pytest.mark.parametrize("split", ["val", "restval", "dev"])
def test_other_splits_are_refused_and_those_that_exist_listed(coco, tmp_path, split):
    there = r"restval \(2 images\), test \(1 images\), train \(3 images\), val \(1 images\)"
    with pytest.raises(DataError, match=rf"no split {split!r}; it has {there}"):
        Karpathy(coco, str(tmp_path)).open(split)


def test_a_split_that_a_file_lacks_is_refused(tmp_path):
    file = make(tmp_path, [image(0, "train")])
    with pytest.raises(DataError, match=r"no split 'test'; it has train \(1 images\)"):
        Karpathy(file, str(tmp_path)).open("test")


def broken(key, value):
    row = image(1, "train")
    if value is None:
        del row[key]
    else:
        row[key] = value
    return {"images": [image(0, "train"), row]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the file is a list, not an object with 'images'"),
        ({"annotations": []}, r"the file has no 'images' \(list\)"),
        ({"images": {}}, "'images' is {}, not list"),
        ({"images": ["a.jpg"]}, r"images\[0\] is a str"),
        ({"images": []}, "no split 'train'; it has no images"),
        (broken("split", None), r"images\[1\] has no 'split'"),
        (broken("filename", None), r"images\[1\] has no 'filename'"),
        (broken("filename", 3), r"images\[1\]: 'filename' is 3, not str"),
        (broken("filepath", 3), r"images\[1\]: 'filepath' is 3"),
        (broken("cocoid", True), r"images\[1\]: 'cocoid' is True, not int or str"),
        (broken("sentences", None), r"images\[1\] has no 'sentences'"),
        (broken("sentences", ["a dog"]), r"images\[1\]\.sentences\[0\] is a str"),
        (broken("sentences", [{}]), r"images\[1\]\.sentences\[0\] has no 'tokens'"),
        (broken("sentences", [{"raw": None}]), r"sentences\[0\]: 'raw' is None, not str"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        Karpathy(str(file), str(tmp_path)).open("train")
    assert str(file) in str(caught.value)


def test_what_is_missing_is_named(coco, tmp_path):
    with pytest.raises(DataError, match=r"config\.dataset\.file to Karpathy's dataset_coco\.json"):
        Karpathy(str(tmp_path / "none.json"), str(tmp_path)).open("train")
    with pytest.raises(DataError, match=r"cannot be read: Is a directory; config\.dataset\.file"):
        Karpathy(str(tmp_path), str(tmp_path)).open("train")
    with pytest.raises(DataError, match=r"no folder '/nowhere'; set config\.dataset\.root"):
        Karpathy(coco, "/nowhere").open("train")
    for content, problem in ((b"{", "is not JSON.*line 1"), (b"\xff\xfe{", "is not UTF-8.*byte 0")):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(DataError, match=rf"bad\.json {problem}.*config\.dataset\.file"):
            Karpathy(str(tmp_path / "bad.json"), str(tmp_path)).open("train")
    with pytest.raises(DataError, match=r"5 missing files.*val2014/0\.jpg"):
        Karpathy(coco, str(tmp_path / "val2014")).open("train")
