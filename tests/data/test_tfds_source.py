import concurrent.futures
import io
import shutil
import urllib.error

import numpy as np
import pytest
from PIL import Image

from capjax.data.captions import read_captions
from capjax.data.datasets.tfds import Tfds
from capjax.data.images import load_pixels
from capjax.data.sections import open_source
from capjax.evaluate.captioning import Caption
from capjax.evaluate.results import coco_results
from capjax.files.errors import DataError
from configs import coco_transformer
from tests.helpers.tiny_coco import builder_class, coco_features, image

tfds = pytest.importorskip("tensorflow_datasets")
TfdsSource = pytest.importorskip("capjax.data.tfds_source").TfdsSource


def prepare(folder, cls, file_format="array_record"):
    builder = cls(data_dir=folder, file_format=file_format)
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    prepare(folder, builder_class(coco_features()))
    return folder


def test_reads_coco_captions(coco):
    train = Tfds("coco_captions", str(coco)).open("train")
    assert train.name == "coco_captions/train+restval"
    assert len(train) == 50
    table = read_captions(train, None)
    assert sorted(map(int, table.image_ids)) == list(range(50))
    for index in (0, 17, 49):
        pixels, image_id, captions = train[np.int32(index)]
        i = int(image_id)
        assert captions == tuple(f"caption {k} of {i}, é" for k in range(i % 3 + 1))
        assert isinstance(pixels, bytes)
        assert pixels == image(i)
        assert load_pixels(pixels, 4).shape == (4, 4, 3)


def test_the_headline_config_reads_it(coco):
    config = coco_transformer.get_config()
    config.dataset.data_dir = str(coco)
    sources = [open_source(config.dataset, split) for split in ("train", "validation")]
    assert [source.name for source in sources] == [
        "coco_captions/train+restval",
        "coco_captions/val",
    ]
    said = {example.image_id: Caption("a", 0, 0, True, ("a",)) for example in sources[1]}
    # Image ids are COCO's integers again.
    assert sorted(row["image_id"] for row in coco_results(said)) == [50, 51, 52]


def test_splits_and_their_names(coco):
    sizes = {"validation": 3, "val": 3, "test": 2, "restval": 10, "train[:5]": 5}
    for split, size in sizes.items():
        assert len(Tfds("coco_captions", str(coco)).open(split)) == size
    assert len(Tfds("coco_captions/2014", str(coco)).open("test")) == 2
    with pytest.raises(DataError, match=r"'dev'.*restval, test, train, val"):
        Tfds("coco_captions", str(coco)).open("dev")


def test_indices_out_of_range_end_a_loop(coco):
    source = Tfds("coco_captions", str(coco)).open("test")
    assert len(list(source)) == 2
    for index in (-1, 2):
        with pytest.raises(IndexError, match="only 2"):
            source[index]


def test_fingerprint_is_of_the_content(coco, tmp_path):
    ours = Tfds("coco_captions", str(coco)).open("train").fingerprint
    assert ours == Tfds("coco_captions", str(coco)).open("train").fingerprint
    assert ours != Tfds("coco_captions", str(coco)).open("val").fingerprint
    shutil.copytree(coco / "coco_captions", tmp_path / "copy" / "coco_captions")
    assert ours == Tfds("coco_captions", str(tmp_path / "copy")).open("train").fingerprint
    prepare(tmp_path / "anew", builder_class(coco_features()))
    assert ours == Tfds("coco_captions", str(tmp_path / "anew")).open("train").fingerprint
    blue = Image.new("RGB", (9, 7), "blue")
    content = io.BytesIO()
    blue.save(content, "JPEG")
    prepare(tmp_path / "other", builder_class(coco_features(), image=content.getvalue()))
    assert ours != Tfds("coco_captions", str(tmp_path / "other")).open("train").fingerprint


def test_threads_read_what_one_reads(coco):
    source = Tfds("coco_captions", str(coco)).open("train")
    order = np.random.default_rng(0).integers(0, 50, 400).tolist()
    fresh = Tfds("coco_captions", str(coco)).open("train")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.__getitem__, order)) == [source[i] for i in order]


def test_missing_features_are_named(tmp_path):
    features = {"image/filename": tfds.features.Text(), "label": np.int64}
    cls = builder_class(features, splits={"train": range(2)}, dataset="other", label=1)
    with pytest.raises(
        DataError, match=r"other lacks features of coco_captions: image: .*captions: .*has .*label"
    ):
        TfdsSource(prepare(tmp_path, cls), "train")


def test_file_name_serves_as_id(tmp_path):
    features = {key: f for key, f in coco_features().items() if key != "image/id"}
    cls = builder_class(features, splits={"train": range(2)}, dataset="other")
    ids = {example.image_id for example in TfdsSource(prepare(tmp_path, cls), "train")}
    assert ids == {"COCO_000000000000.jpg", "COCO_000000000001.jpg"}


def test_other_file_formats_are_explained(tmp_path):
    pytest.importorskip("tensorflow")
    cls = builder_class(coco_features(), splits={"test": range(2)})
    prepare(tmp_path, cls, file_format="tfrecord")
    with pytest.raises(DataError, match="convert_format"):
        Tfds("coco_captions", str(tmp_path)).open("test")


def test_without_network_it_says_what_would_work(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")  # TFDS's own coco_captions imports it

    def unreachable(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    unfinished = tmp_path / "coco_captions" / "2014" / "1.1.0.incompleteABC"
    unfinished.mkdir(parents=True)
    (unfinished / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        Tfds("coco_captions", str(tmp_path)).open("train")
    message = str(caught.value)
    for part in (str(tmp_path), "images.cocodataset.org", "no route", "40 GB", "copy"):
        assert part in message


def test_unknown_datasets_are_refused(tmp_path):
    with pytest.raises(DataError, match="nonesuch is not prepared in"):
        Tfds("nonesuch", str(tmp_path)).open("train")
