"""The contract of a dataset: its fields, and how a config's section finds it by name."""

import dataclasses
import functools
import inspect
import os
from typing import get_type_hints

import pytest

from capjax.config import build
from capjax.config.errors import ConfigError
from capjax.data import tokenizer_kinds
from capjax.data.augment import Augmentation
from capjax.data.dataset import CommonFields, Dataset, FilesDataset
from capjax.data.files_source import FilesSource
from capjax.data.resize import Resize
from capjax.data.sections import check_images, dataset_of, open_source
from capjax.data.shapes import truth
from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.parts import DATASETS
from capjax.parts.check import fault, fields_of
from configs import base

# A dataset's section is made by the function of configs.base that has its name.
SECTIONS = {name: getattr(base, f"{name}_dataset") for name in DATASETS.names()}
SECTIONS["tfds"] = functools.partial(base.tfds_dataset, "coco_captions")


@dataclasses.dataclass(frozen=True)
class Drawings(Dataset):
    root: str = ""

    def open(self, split):
        folder = os.path.join(self.path("root"), split)
        names = sorted(os.listdir(folder))
        examples = [Example(name, name, (name[:-4].replace("_", " "),)) for name in names]
        return FilesSource(f"drawings/{split}", folder, examples)


@pytest.fixture(name="registered")
def register(monkeypatch):
    monkeypatch.setattr(DATASETS, "_registered", {})
    DATASETS.register("drawings", Drawings)


def defaults(part):
    """The defaults of a part's config fields, of those that have one."""
    if not dataclasses.is_dataclass(part):
        parameters = inspect.signature(part).parameters
        return {name: parameters[name].default for name in fields_of(part)}
    fields = {field.name: field.default for field in dataclasses.fields(part)}
    return {name: fields[name] for name, field in fields_of(part).items() if not field.required}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_dataset_has_the_fields_of_its_section(name):
    section, part = SECTIONS[name](), DATASETS.get(name)
    assert section.name == name
    common, own = fields_of(CommonFields), fields_of(part)
    assert set(section) == {"name"} | common.keys() | own.keys()
    assert not common.keys() & own.keys()
    assert {*CommonFields.may_change, *part.may_change} <= set(section)
    for field, kind in {**common, **own}.items():
        assert fault(kind.type, section[field]) is None, field
    given = {**defaults(CommonFields), **defaults(part)}
    assert given == {field: section[field] for field in given}
    assert common.keys() | own.keys() == given.keys() | ({"tfds_name"} if name == "tfds" else set())


def test_images_and_words_have_the_fields_of_their_sections():
    config = base.get_config()
    assert defaults(tokenizer_kinds.train) == config.tokenizer.to_dict()
    common = get_type_hints(CommonFields, include_extras=True)
    for part, renamed in ((Resize, {"size": "image_size"}), (Augmentation, {})):
        for field, kind in fields_of(part).items():
            assert kind.type == common[renamed.get(field, field)]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_is_its_dataset(name):
    section = SECTIONS[name]()
    dataset = dataset_of(section)
    assert dataset == dataset_of(section.to_dict())
    assert isinstance(dataset, DATASETS.get(name))
    assert all(getattr(dataset, field) == section[field] for field in fields_of(type(dataset)))
    assert isinstance(dataset, FilesDataset) == ("bad_images" in section)


@pytest.mark.parametrize(
    ("name", "field"),
    [("flickr8k", "root"), ("karpathy", "file"), ("coco_json", "train_file"), ("folder", "file")],
)
def test_a_path_that_is_not_given_is_named(name, field):
    with pytest.raises(DataError, match=rf"{field} is empty; .* --config\.dataset\.{field}=PATH"):
        open_source(SECTIONS[name](), "train")


def test_shapes_is_asked_for_by_either_function():
    assert base.tfds_dataset() == base.tfds_dataset("shapes") == base.shapes_dataset()


def test_only_shapes_knows_what_is_true():
    own = {name: DATASETS.get(name).metrics for name in SECTIONS}
    assert own == {**dict.fromkeys(SECTIONS, ()), "shapes": truth.METRICS}
    config = base.get_config()
    (score,) = build.scorers(config)
    captions = {f"shapes-0-validation-00000{number}": "a red square" for number in range(2)}
    assert score(captions, {}) == truth.caption_metrics(captions)
    assert build.image_scorers(config) == (truth.image_metrics,)
    config.dataset = base.folder_dataset()
    assert build.scorers(config) == build.image_scorers(config) == ()


def test_an_own_dataset_opens_by_its_name(registered, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a_red_house.png").write_bytes(b"no image")
    section = {"name": "drawings", "root": str(tmp_path)}
    source = open_source(section, "train")
    image = str(tmp_path / "train" / "a_red_house.png")
    assert list(source) == [(image, "a_red_house.png", ("a red house",))]
    # Only files of a FilesDataset are decoded first.
    assert check_images(section, source) is source
    with pytest.raises(DataError, match=r"dataset\.root is empty"):
        open_source({"name": "drawings", "root": ""}, "train")


def test_an_own_dataset_without_open_is_refused(registered):
    DATASETS.register("empty", dataclasses.make_dataclass("Empty", [], bases=(Dataset,)))
    with pytest.raises(TypeError, match=r"abstract class Empty .*abstract method '?open"):
        open_source({"name": "empty"}, "train")


def test_an_unknown_name_lists_the_datasets(registered):
    section = {**base.folder_dataset(), "name": "coco_captions"}
    with pytest.raises(DataError) as caught:
        open_source(section, "train")
    message = str(caught.value)
    assert message.startswith("config.dataset.name='coco_captions': there is no dataset")
    assert "coco_json, drawings, flickr8k, folder, karpathy, shapes, tfds" in message
    assert "config.dataset = base.tfds_dataset(NAME)" in message
    config = base.get_config()
    config.dataset.name = "coco_captions"
    with pytest.raises(ConfigError, match=r"flickr8k.*base\.tfds_dataset"):
        build.scorers(config)
