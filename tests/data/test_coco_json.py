import json
import random
from collections import Counter

import pytest

from capjax.data.datasets.coco_json import CocoJson
from capjax.files.errors import DataError

IMAGES = 40
CAPTIONS = 5


def content():
    images = [{"id": 7 * i, "file_name": f"COCO_{i}.jpg", "license": 1} for i in range(IMAGES)]
    annotations = [
        {"id": 1000 - 200 * k + i, "image_id": 7 * i, "caption": f"caption {k} of {i}"}
        for k in range(CAPTIONS)
        for i in range(IMAGES)
    ]
    return {"info": {}, "images": images, "annotations": annotations}


def write(root, data, name="captions_train2014.json"):
    file = root / name
    file.write_text(json.dumps(data))
    return str(file)


@pytest.fixture(scope="module", name="root")
def make_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    for row in content()["images"]:
        (root / row["file_name"]).write_bytes(row["file_name"].encode())
    return root


@pytest.fixture(scope="module", name="file")
def make_file(root):
    return write(root, content())


def sample(file, root, split="train", count=50, by="captions", seed=0):
    return CocoJson(file, str(root), sample=count, sample_by=by, sample_seed=seed).open(split)


def whole(file, root, split="train"):
    return CocoJson(file, str(root), file, str(root)).open(split)


def both(file, root, **options):
    return [sample(file, root, split, **options) for split in ("train", "validation")]


def test_reads_whole_files(root, file):
    for split in ("train", "validation"):
        source = whole(file, root, split)
        assert source.name == f"captions_train2014/{split}"
        assert (len(source), source.selection) == (IMAGES, {})
        for i in (0, 5):
            captions = tuple(f"caption {k} of {i}" for k in range(CAPTIONS))
            assert source[i] == (str(root / f"COCO_{i}.jpg"), str(7 * i), captions)


@pytest.mark.parametrize(("count", "train"), [(2, 1), (3, 2), (50, 40), (200, 160)])
def test_a_sample_of_captions_is_split_80_to_20(root, file, count, train):
    sources = both(file, root, count=count)
    drawn = [text for source in sources for example in source for text in example.captions]
    assert len(drawn) == len(set(drawn)) == count
    assert sum(len(example.captions) for example in sources[0]) == train
    everything = content()["annotations"]
    text_of = {row["id"]: row["caption"] for row in everything}
    image_of = {row["id"]: str(row["image_id"]) for row in everything}
    ids = [{example.image_id for example in source} for source in sources]
    for source in sources:
        chosen = source.selection["annotation_ids"]
        pairs = {(image_of[k], text_of[k]) for k in chosen}
        assert pairs == {(e.image_id, text) for e in source for text in e.captions}
        shared = len(ids[0] & ids[1])
        assert source.selection["shares_images"] == shared
        assert f"{shared} images lie in both splits" in source.selection["note"]
        assert ("not those of unseen images" in source.selection["note"]) == (shared > 0)
        assert json.loads(json.dumps(source.selection)) == source.selection
        assert source.selection | {"count": count, "by": "captions", "seed": 0} == source.selection
        assert source.selection["file"] == "captions_train2014.json"


@pytest.mark.parametrize(("count", "train"), [(2, 1), (10, 8), (40, 32)])
def test_a_sample_of_images_shares_none(root, file, count, train):
    sources = both(file, root, count=count, by="images")
    ids = [[example.image_id for example in source] for source in sources]
    assert [len(part) for part in ids] == [train, count - train]
    assert not set(ids[0]) & set(ids[1])
    for source, part in zip(sources, ids, strict=True):
        assert [str(k) for k in source.selection["image_ids"]] == part
        assert source.selection["shares_images"] == 0
        assert "no image lies in both" in source.selection["note"]
        assert "annotation_ids" not in source.selection
        for example in source:
            i = int(example.image_id) // 7
            assert sorted(example.captions) == [f"caption {k} of {i}" for k in range(CAPTIONS)]


@pytest.mark.parametrize("by", ["captions", "images"])
def test_the_order_of_the_file_plays_no_part(root, file, tmp_path, by):
    shuffled = content()
    for key in ("images", "annotations"):
        random.Random(1).shuffle(shuffled[key])
    other = write(tmp_path, shuffled)
    sources = [both(table, root, count=30, by=by) for table in (file, other)]
    for ours, theirs in zip(*sources, strict=True):
        assert ours.fingerprint == theirs.fingerprint
        assert ours.selection == theirs.selection
        assert list(ours) == list(theirs)


def test_the_seed_draws_another_sample_and_each_is_uniform(root, file):
    counts, trained = Counter(), Counter()
    for seed in range(60):
        train, validation = both(file, root, count=10, by="images", seed=seed)
        counts.update(train.selection["image_ids"] + validation.selection["image_ids"])
        trained.update(train.selection["image_ids"])
    assert counts.total() == 600
    # 60 draws at 10 of 40: 15 each, with a standard deviation of 3.4.
    assert len(counts) == IMAGES
    assert max(counts.values()) < 15 + 5 * 3.4
    # Of low and high ids alike.
    low = sum(trained[7 * i] for i in range(IMAGES // 2))
    assert abs(low - 240) < 5 * 11


def test_the_draw_stays_what_it_was(root, file):
    """Else a published sample could not be drawn again."""
    assert sample(file, root, count=5, by="images").selection["image_ids"] == [245, 154, 84, 147]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 201}, r"config\.dataset\.sample is 201, but .*json has 200 captions"),
        ({"count": 41, "by": "images"}, "sample is 41, but .*json has 40 images"),
        ({"count": 1}, "sample is 1, but .*at least 2"),
        ({"count": -5}, "sample is -5, but"),
        (
            {"by": "words"},
            r"""config\.dataset\.sample_by must be "captions" or "images".*'words'""",
        ),
        ({"seed": -1}, r"config\.dataset\.sample_seed must be at least 0, not -1"),
        ({"split": "test"}, "the splits train and validation, not 'test'"),
    ],
)
def test_impossible_samples_are_refused(root, file, options, message):
    with pytest.raises(DataError, match=message):
        sample(file, root, **options)


def with_row(key, row, at=1):
    data = content()
    data[key][at] = row
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the file is a list"),
        ({"images": []}, "the file has no 'annotations'"),
        ({"annotations": [], "categories": []}, "the file has no 'images'"),
        (with_row("images", {"id": 7}), r"images\[1\] has no 'file_name'"),
        (with_row("images", {"id": None, "file_name": "a"}), r"images\[1\]: 'id' is None"),
        (with_row("images", {"id": 0, "file_name": "a"}), "1 ids of images occur .* once: 0"),
        (with_row("images", {"id": "0", "file_name": "a"}), "1 ids of images occur .* once: 0"),
        (with_row("images", {"id": 3, "file_name": "a"}), "5 annotations .* does not have: 1001,"),
        (with_row("annotations", {"id": 1, "image_id": 0}), r"annotations\[1\] has no 'caption'"),
        (
            with_row("annotations", {"id": 1, "image_id": 0, "caption": None}),
            r"annotations\[1\]: 'caption' is None, not str",
        ),
        (
            with_row("annotations", {"id": 1000, "image_id": 0, "caption": "a"}),
            "1 ids of annotations occur more than once: 1000",
        ),
    ],
)
def test_other_files_are_refused(root, tmp_path, data, message):
    file = write(tmp_path, data)
    for opened in (lambda: whole(file, root), lambda: sample(file, root)):
        with pytest.raises(DataError, match=message) as caught:
            opened()
        assert str(caught.value).startswith(file)
        assert "config.dataset.train_file should be COCO's" in str(caught.value)


def test_what_is_missing_is_named(root, file):
    for split in ("train", "validation"):
        with pytest.raises(DataError, match=rf"set config\.dataset\.{split}_file to COCO's"):
            whole("/nowhere.json", root, split)
        with pytest.raises(DataError, match=rf"set config\.dataset\.{split}_root to the folder"):
            whole(file, "/nowhere", split)
        with pytest.raises(DataError, match=r"set config\.dataset\.train_file to COCO's"):
            sample("/nowhere.json", root, split)
    with pytest.raises(DataError, match="not 'test'"):
        whole(file, root, "test")


def test_images_without_captions_are_named(root, tmp_path):
    data = content()
    data["annotations"] = [row for row in data["annotations"] if row["image_id"] != 14]
    file = write(tmp_path, data)
    with pytest.raises(DataError, match=r"1 images without a caption .*: 14$"):
        whole(file, root)
