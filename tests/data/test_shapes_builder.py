import io
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip("tensorflow_datasets", reason="builds a TFDS dataset")

from capjax.data.shapes import builder as shapes  # noqa: E402
from capjax.data.shapes.draw import draw  # noqa: E402
from capjax.data.shapes.grammar import captions_of  # noqa: E402
from capjax.data.shapes.scene import image_id, scene_of  # noqa: E402
from capjax.data.tfds_source import TfdsSource  # noqa: E402

SMALL = {"train": 12, "validation": 5, "test": 3, "heldout": 4}


def read(builder, split):
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return shapes.prepare(tmp_path_factory.mktemp("tfds"), sizes=SMALL, seed=3)


@pytest.mark.parametrize("split", SMALL)
def test_example_i_is_image_i_as_raw_png(built, split):
    source = read(built, split)
    assert len(source) == SMALL[split]
    for index in reversed(range(len(source))):
        example = source[index]
        name = image_id(split, index, seed=3)
        assert example["image/id"].decode() == name
        assert example["image/filename"].decode() == f"{name}.png"
        assert example["image"] == shapes.encode_png(name)
        pixels = np.asarray(Image.open(io.BytesIO(example["image"])))
        np.testing.assert_array_equal(pixels, draw(scene_of(name)))
        assert tuple(t.decode() for t in example["captions"]["text"]) == captions_of(name)


def test_features_are_those_of_coco_captions(built):
    features = built.info.features
    assert set(features) == {"image", "image/filename", "image/id", "captions"}
    assert features["image"].shape == (64, 64, 3)
    assert set(features["captions"].feature) == {"text"}


def test_the_usual_sizes_and_folder(tmp_path):
    builder = shapes.Shapes(data_dir=tmp_path)
    assert builder.data_path.relative_to(tmp_path).parts == ("shapes", "1.0.0")
    assert shapes.SPLIT_SIZES == {"train": 8000, "validation": 1000, "test": 500, "heldout": 500}


def test_what_is_there_is_not_written_again(built, capfd):
    folder = pathlib.Path(built.data_path)
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = shapes.prepare(built.data_path.parents[2], sizes=SMALL, seed=3)
    assert again.data_path == built.data_path
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files
    assert capfd.readouterr() == ("", "")


def test_stdout_stays_clean_and_other_sizes_live_apart(built, capfd, caplog):
    root = built.data_path.parents[2]
    other = shapes.prepare(root, sizes={"test": 2}, seed=3)
    assert other.data_path != built.data_path
    assert list(other.info.splits) == ["test"]
    assert len(read(built, "test")) == SMALL["test"]
    assert capfd.readouterr().out == ""
    assert not caplog.records


def test_seeds_give_other_images(tmp_path, built):
    other = shapes.prepare(tmp_path, sizes=SMALL, seed=4)
    assert read(other, "train")[0]["image"] != read(built, "train")[0]["image"]


def test_the_fingerprint_is_of_what_the_data_are_made_from(tmp_path, built):
    """Record files prepared anew have other bytes."""

    def of(builder, split="test"):
        return TfdsSource(builder, split, generated=True)

    anew, other = (shapes.prepare(tmp_path, sizes=SMALL, seed=seed) for seed in (3, 4))
    assert of(anew).fingerprint == of(built).fingerprint
    assert len({of(anew).fingerprint, of(anew, "heldout").fingerprint, of(other).fingerprint}) == 3
    copied = shutil.copytree(anew.data_path, tmp_path / "copy" / "shapes" / "copied" / "1.0.0")
    copied = tfds.builder_from_directory(copied)
    assert of(copied).former_fingerprint == of(anew).former_fingerprint


@pytest.mark.parametrize("sizes", [{}, {"val": 3}, {"train": 0}])
def test_wrong_sizes_are_named(tmp_path, sizes):
    with pytest.raises(ValueError, match="sizes must have"):
        shapes.prepare(tmp_path, sizes=sizes)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(name):
        raise RuntimeError("no picture")

    monkeypatch.setattr(shapes, "encode_png", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        shapes.prepare(tmp_path, sizes={"test": 2})
    monkeypatch.undo()
    assert len(read(shapes.prepare(tmp_path, sizes={"test": 2}), "test")) == 2


def test_another_process_that_finishes_first_is_no_error(tmp_path, monkeypatch):
    encode = shapes.encode_png

    def interrupted(name):
        monkeypatch.setattr(shapes, "encode_png", encode)
        shapes.prepare(tmp_path, sizes={"test": 2})
        return encode(name)

    monkeypatch.setattr(shapes, "encode_png", interrupted)
    builder = shapes.prepare(tmp_path, sizes={"test": 2})
    assert len(read(builder, "test")) == 2
    assert [path.name for path in builder.data_path.parent.iterdir()] == ["1.0.0"]
