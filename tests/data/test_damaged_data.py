"""Damaged files of datasets and of their caches: errors that name the file, or a new file."""

import io

import numpy as np
import pytest

from capjax.data.caption_cache import open_encoded, open_tokenizer
from capjax.data.captions import read_captions
from capjax.data.check_images import find_bad_images
from capjax.data.datasets.coco_json import CocoJson
from capjax.data.datasets.flickr8k import Flickr8k
from capjax.data.datasets.folder import Folder
from capjax.data.datasets.karpathy import Karpathy
from capjax.data.feature_cache import FeatureShape, open_features
from capjax.data.sections import cache_dir
from capjax.data.tokenizer import train_word_tokenizer
from capjax.files.errors import DataError
from tests.helpers.damage import OTHER, cut, flipped, of_other_kinds, replaced
from tests.helpers.sources import captioned

FILES = {
    "rows.jsonl": '{"image": "a.jpg", "caption": "a dog", "split": "train"}\n'
    '{"image": "b.jpg", "captions": ["a cat", "cat"], "split": "val"}\n',
    "rows.csv": "image,caption,split\na.jpg,a dog,train\nb.jpg,a cat,val\n",
    "karpathy.json": '{"images": [{"filename": "a.jpg", "filepath": ".", "cocoid": 1, "split": '
    '"train", "sentences": [{"raw": "a dog"}, {"tokens": ["a", "cat"]}]}]}',
    "coco.json": '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}], '
    '"annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}, '
    '{"id": 2, "image_id": 2, "caption": "a cat"}]}',
    "captions.txt": 'image,caption\na.jpg,"a dog"\n',
    "Flickr_8k.trainImages.txt": "a.jpg\n",
}


def readers(root):
    """What reads each of the files."""

    def coco(file):
        CocoJson(file, root).open("train")
        CocoJson(file, root, sample=2).open("train")

    return {
        "rows.jsonl": lambda file: Folder(file, root).open("train"),
        "rows.csv": lambda file: Folder(file, root).open("train"),
        "karpathy.json": lambda file: Karpathy(file, root).open("train"),
        "coco.json": coco,
        "captions.txt": lambda _: Flickr8k(root).open("train"),
        "Flickr_8k.trainImages.txt": lambda _: Flickr8k(root).open("train"),
    }


@pytest.fixture(name="root")
def make_root(tmp_path):
    (tmp_path / "Images").mkdir()
    for folder in (tmp_path, tmp_path / "Images"):
        for name in ("a.jpg", "b.jpg"):
            (folder / name).write_bytes(name.encode())
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def reads(root, path, read):
    """Whether it is read; an error must say where."""
    try:
        read(str(path))
        return True
    except DataError as error:
        message = str(error)
    assert str(root) in message
    return False


@pytest.mark.parametrize("name", FILES)
def test_no_damage_is_more_than_an_error(root, name):
    path, read = root / name, readers(str(root))[name]
    content = path.read_bytes()
    assert reads(root, path, read)
    for damaged in (None, *OTHER):
        with replaced(path, damaged):
            assert not reads(root, path, read), damaged
    for damaged in (*cut(content, 30), *flipped(content, 60)):
        with replaced(path, damaged):
            reads(root, path, read)
    if name.endswith(".json"):
        for _, _, damaged in of_other_kinds(content):
            with replaced(path, damaged):
                reads(root, path, read)


def features(folder):
    shape = FeatureShape(3, 4, 5, (2, 2), 0, "float16")

    def compute(batches):
        return (np.ones((3, 4, 5)) for _ in batches)

    cache = open_features(folder / "features", {}, shape, compute, batch_size=3, name="three")
    return cache.read(np.arange(3)).sum()


def test_damaged_caches_are_made_anew(tmp_path):
    """A captions file or a check of images that is none is written again, whatever it is."""
    table = read_captions(captioned(3, "a dog", "a cat"), None)
    words = train_word_tokenizer(["a dog"])
    encoding = {"max_length": 5, "over_length": "drop"}
    for name, read in (
        (
            "captions-f00d.safetensors",
            lambda: read_captions(captioned(3, "a dog", "a cat"), tmp_path),
        ),
        ("tokens-*", lambda: open_encoded(table, words, tmp_path, **encoding).tokens),
        ("tokenizer-*", lambda: open_tokenizer(table, {"kind": "words"}, tmp_path).text),
        (
            "images-f00d.json",
            lambda: find_bad_images(captioned(), cache_dir=tmp_path, num_threads=1),
        ),
    ):
        whole = read()
        (path,) = tmp_path.glob(name)
        content = path.read_bytes()
        as_json = path.suffix == ".json"
        kinds = [damaged for _, _, damaged in of_other_kinds(content)] if as_json else []
        for damaged in (*OTHER, *cut(content), *flipped(content), *kinds[::3]):
            path.write_bytes(damaged)
            assert read() == whole
            assert path.read_bytes() == content
        path.unlink()
        path.mkdir()
        with pytest.raises(
            DataError, match=rf"{path.name} cannot be written: .*dataset\.cache_dir"
        ):
            read()


@pytest.mark.parametrize("name", ["meta.json", "features.npy", "checksums.npy"])
def test_damaged_features_are_refused(tmp_path, name):
    assert features(tmp_path) == 60
    path = tmp_path / "features" / name
    content = path.read_bytes()
    for damaged in (None, *OTHER, *cut(content)):
        with replaced(path, damaged), pytest.raises(DataError, match="Delete the folder and start"):
            features(tmp_path)
    if name.endswith(".npy"):
        array = np.load(path)
        for other in (array[:2], array.astype(np.float64), array[..., None]):
            saved = io.BytesIO()
            np.save(saved, other)
            with replaced(path, saved.getvalue()), pytest.raises(DataError, match="and not "):
                features(tmp_path)
    for damaged in flipped(content):
        with replaced(path, damaged):
            try:
                assert features(tmp_path) == 60  # A space of the header is any byte.
            except DataError as error:
                assert "Delete the folder" in str(error)  # noqa: PT017


def test_a_cache_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"config\.dataset\.cache_dir=.*file is a file"):
        cache_dir({"cache_dir": str(tmp_path / "file")})
    with pytest.raises(DataError, match="cannot be made"):
        features(tmp_path / "file" / "below")
    with pytest.raises(DataError, match="cannot be written"):
        read_captions(captioned(), tmp_path / "file")


@pytest.mark.parametrize("split", ["../../etc", "train/../../x", "", "\0", "a" * 300])
def test_a_split_that_could_name_another_folder_is_none(root, split):
    """A split names the files of an evaluation: each source takes those alone that it has."""
    for read in (
        lambda: Folder(str(root / "rows.csv"), str(root)).open(split),
        lambda: Karpathy(str(root / "karpathy.json"), str(root)).open(split),
        lambda: CocoJson(str(root / "coco.json"), str(root)).open(split),
        lambda: Flickr8k(str(root)).open(split),
    ):
        with pytest.raises(DataError, match="split"):
            read()
