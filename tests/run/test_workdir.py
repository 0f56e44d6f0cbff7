"""A workdir knows its run, and refuses another's config."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from capjax.config import build, checks
from capjax.config.errors import ConfigError
from capjax.config.fields import part_of
from capjax.config.identity import FREE_IN_EVALUATION, flat
from capjax.config.upgrade import upgrade
from capjax.data.captions import CaptionTable
from capjax.data.dataset import Dataset
from capjax.data.sections import train_tokenizer
from capjax.data.tokenizer import train_word_tokenizer
from capjax.files.atomic import write_json
from capjax.files.errors import DataError
from capjax.parts import DATASETS
from capjax.parts.check import fields_of
from capjax.pretrained.captioners.export_captioner import check_free
from capjax.run.workdir import Workdir, WorkdirError, default_workdir
from capjax.train.early_stopping import EarlyStopping
from configs import base, coco_transformer, flickr8k_transformer
from tests.helpers.shipped import CONFIGS, WITH_ARGUMENTS

CAPJAX = Path(__file__).parents[2] / "capjax"
TOKENIZER = train_word_tokenizer(["a cat", "a dog"])


def save(folder, config):
    Workdir(folder).save(config, TOKENIZER, {"train": "1", "tokenizer": "2"})


@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
def test_configs_come_back_as_they_were(make, tmp_path):
    save(tmp_path, make())
    again = Workdir(tmp_path).load_config()
    assert again.to_dict() == upgrade(make().to_dict())
    Workdir(tmp_path).check_same_run(make())


def test_another_training_config_is_refused_by_field(tmp_path):
    config = base.get_config()
    save(tmp_path, config)
    config.decoder.num_layers = 7
    config.decoding.num_beams = 3
    config.dataset.data_dir = "/elsewhere"
    with pytest.raises(WorkdirError) as raised:
        Workdir(tmp_path).check_same_run(config)
    message = str(raised.value)
    assert "decoder.num_layers: 2 in the run, 7 now" in message
    assert "num_beams" not in message
    assert "data_dir" not in message


def test_fields_of_one_start_are_named(tmp_path):
    config = base.get_config()
    save(tmp_path, config)
    assert Workdir(tmp_path).changes_now(config) == ""
    config.eval_every, config.num_steps, config.dataset.data_dir = 7, 9000, "/elsewhere"
    found = Workdir(tmp_path).changes_now(config)
    assert found.startswith("for this start alone, so give it again at the next: eval_every: ")
    assert found.endswith(" in the run, 7 now")


def test_the_number_of_steps_can_be_changed_alone(tmp_path):
    save(tmp_path, base.get_config())
    before = json.loads((tmp_path / "config.json").read_text())
    Workdir(tmp_path).save_num_steps(7000)
    assert json.loads((tmp_path / "config.json").read_text()) == {**before, "num_steps": 7000}
    Workdir(tmp_path).check_same_run(base.get_config(), FREE_IN_EVALUATION)
    with pytest.raises(WorkdirError, match="num_steps: 7000 in the run, 1000 now"):
        Workdir(tmp_path).check_same_run(base.get_config())


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return (*value, 1) if isinstance(value, tuple) else value + 1


@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
def test_fields_are_free_that_change_no_update(make, tmp_path):
    """Decoding, evaluation, logging and where data lies: all others are refused, by name."""
    save(tmp_path, make())
    free = ("decoding.", "evaluation.", "log_every", "eval_every", "checkpoint_every")
    # As long as no update was left out, any number would have done the same.
    free += ("optimizer.skip_nonfinite", "wandb_project")
    places = ("data_dir", "root", "file", "cache_dir", "num_threads", "bad_images")
    places += ("allow_outside",)
    for name, value in flat(make()).items():
        if name == "dataset.name" and "data_dir" in make().dataset:
            continue  # Of a dataset of TFDS, see `test_another_dataset_of_tfds_is_refused`.
        config = make()
        config.update_from_flattened_dict({name: another(value)})
        data = name.startswith("dataset.") and name.endswith(places)
        if name.startswith(free) or data:
            Workdir(tmp_path).check_same_run(config)
            continue
        with pytest.raises(WorkdirError, match=f"  {name}: ") as raised:
            Workdir(tmp_path).check_same_run(config)
        # The mode "auto" follows the metric.
        assert str(raised.value).count("in the run") in (1, 1 + (name == "early_stopping.metric"))


@pytest.mark.parametrize("module", [base, coco_transformer])
def test_another_dataset_of_tfds_is_refused(module, tmp_path):
    save(tmp_path, module.get_config())
    config = module.get_config()
    config.dataset = base.tfds_dataset("flickr30k")
    with pytest.raises(WorkdirError, match=r"dataset\.tfds_name: .* 'flickr30k' now"):
        Workdir(tmp_path).check_same_run(config)


@pytest.mark.parametrize("module", [base, flickr8k_transformer, coco_transformer])
def test_runs_of_an_earlier_version_are_todays_defaults(module, tmp_path):
    """Of fields that came later, an old config.json has none, and its datasets of TFDS no kind."""
    config = module.get_config()
    saved = upgrade(config.to_dict())
    del saved["objective"], saved["evaluation"]["metrics"]
    if name := saved["dataset"].pop("tfds_name", None):
        saved["dataset"]["name"] = name
    save(tmp_path, ConfigDict(saved))
    Workdir(tmp_path).check_same_run(config)
    assert Workdir(tmp_path).load_config().to_dict() == upgrade(config.to_dict())
    config = ConfigDict(upgrade(config.to_dict()))
    Workdir(tmp_path).check_same_run(config)
    config.objective.name = "another"
    message = "objective.name: 'cross_entropy' in the run, 'another' now"
    with pytest.raises(WorkdirError, match=message):
        Workdir(tmp_path).check_same_run(config)


def choosing(metric, mode):
    config = base.get_config()
    config.early_stopping.update(metric=metric, mode=mode)
    return config


@pytest.mark.parametrize(
    ("metric", "mode"), [("CIDEr-D", "max"), ("loss", "min"), ("loss", "max"), ("words", "max")]
)
def test_a_mode_that_the_metric_implies_is_no_other_config(metric, mode, tmp_path):
    """Runs had to name one, and could name the wrong one, which is none to continue with."""
    save(tmp_path, choosing(metric, mode))
    Workdir(tmp_path).check_same_run(choosing(metric, "auto"))
    with pytest.raises(WorkdirError, match=r"early_stopping\.metric: "):
        Workdir(tmp_path).check_same_run(choosing("BLEU-4", "auto"))


def test_the_mode_of_a_metric_of_ones_own_is_the_runs(tmp_path):
    save(tmp_path, choosing("words", "min"))
    with pytest.raises(WorkdirError, match=r"early_stopping\.mode: 'min' in the run, 'auto' now"):
        Workdir(tmp_path).check_same_run(choosing("words", "auto"))


@dataclasses.dataclass(frozen=True)
class Drawings(Dataset):
    root: str = ""
    colours: str = "all"

    may_change = ("root",)

    def open(self, split):
        raise DataError(f"there is no {split}")


def test_an_own_dataset_says_which_of_its_fields_may_change(tmp_path, monkeypatch):
    monkeypatch.setattr(DATASETS, "_registered", {"drawings": Drawings})
    config = base.get_config()
    config.dataset = base.own_dataset("drawings", root="here", colours="all")
    save(tmp_path, config)
    config.dataset.update(root="elsewhere", colours="some", cache_dir="")
    with pytest.raises(WorkdirError, match=r"dataset\.colours: 'all' in the run") as raised:
        Workdir(tmp_path).check_same_run(config)
    assert str(raised.value).count("in the run") == 1


def test_a_default_workdir_tells_a_configs_arguments_apart():
    assert default_workdir("configs/coco_transformer.py") == "runs/coco_transformer"
    assert (
        default_workdir("configs/coco_transformer.py:karpathy") == "runs/coco_transformer_karpathy"
    )


def test_another_encoder_is_refused(tmp_path):
    save(tmp_path, base.get_config())
    config = base.get_config()
    config.encoder = base.conv_encoder()
    with pytest.raises(WorkdirError, match=r"encoder.blocks: '\(absent\)' in the run, 2"):
        Workdir(tmp_path).check_same_run(config)


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(WorkdirError, match=r"no config\.json"):
        Workdir(tmp_path).load_config()


def test_every_config_field_is_read():
    """A section is spread over what it builds, which takes no unknown field, or read by name."""
    spread = ("encoder", "adapter", "decoder", "tokenizer", "decoding", "early_stopping")
    spread += ("hard_attention", "scheduled_sampling", "optimizer", "objective", "lora")
    files = [file for name in ("run", "config") for file in (CAPJAX / name).glob("*.py")]
    files.append(CAPJAX / "data/sections.py")
    # These name fields, and read none.
    naming = ("fields.py", "identity.py", "upgrade.py")
    text = "".join(file.read_text() for file in files if file.name not in naming)
    for make in (CONFIGS | WITH_ARGUMENTS).values():
        config = make()
        own = fields_of(part_of(config, "dataset"))
        for section, value in config.items():
            if section not in spread:
                names = value if hasattr(value, "items") else (section,)
                for field in [name for name in names if section != "dataset" or name not in own]:
                    read = f".{field}" in text or f'["{field}"]' in text
                    assert read, f"nothing reads {section}.{field}"
        checks.check(config)
        build.captioner(config, TOKENIZER)
        config.dataset.cache_dir = ""  # Nothing is kept of captions without a source.
        train_tokenizer(config, CaptionTable(("1",), (("a cat",) * 5,), ""))
        build.beam_search(config.decoding)
        build.objective(config)
        EarlyStopping(**config.early_stopping)


def test_another_dataset_under_a_run_is_refused(tmp_path):
    save(tmp_path, base.get_config())
    Workdir(tmp_path).check_same_data({"train": ("new", "1"), "tokenizer": ("2",)})
    with pytest.raises(WorkdirError, match="other data: tokenizer changed"):
        Workdir(tmp_path).check_same_data({"train": ("1",), "tokenizer": ("3",)})


def test_a_dataset_that_a_config_does_not_know_is_named():
    with pytest.raises(ValueError, match="the dataset is flickr30k; it must be one of"):
        coco_transformer.get_config("flickr30k")


def test_what_does_not_change_is_kept_once(tmp_path):
    frozen = {"params": {"encoder": {"kernel": np.ones((2, 3), np.float32)}}}
    Workdir(tmp_path).save_frozen(frozen)
    assert Workdir(tmp_path).load_frozen()["params"]["encoder"]["kernel"].sum() == 6
    file = tmp_path / "frozen.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(WorkdirError, match=r"frozen\.safetensors is not a readable"):
        Workdir(tmp_path).load_frozen()
    # A start that came to nothing may have left one.
    Workdir(tmp_path).save_frozen({})
    with pytest.raises(WorkdirError, match="variables that training did not change"):
        Workdir(tmp_path).load_frozen()


def test_a_selection_is_written_and_an_old_one_removed(tmp_path):
    class Drawn:
        selection = {"by": "captions"}  # noqa: RUF012

    class Whole:
        selection = {}  # noqa: RUF012

    Workdir(tmp_path).save_selection({"train": Drawn, "validation": Whole})
    file = tmp_path / "selection.json"
    assert json.loads(file.read_text()) == {"train": {"by": "captions"}}
    Workdir(tmp_path).save_selection({"train": Whole})
    assert not file.exists()


def test_fields_of_another_encoder_are_named():
    config = base.get_config()
    config.encoder.name = "conv"
    with pytest.raises(ConfigError, match=r"conv.* has unknown fields: class_token"):
        build.captioner(config, TOKENIZER)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("early_stopping.metric", "CIDEr", "early_stopping.metric='CIDEr' must be one of 'loss'"),
        ("early_stopping.metric", "METEOR", "metric='METEOR' must be one of 'loss', .*in training"),
        (
            "early_stopping.mode",
            "min",
            "mode='min' would choose the worst checkpoint: of config.early_stopping.metric="
            "'CIDEr-D' more is better; --config.early_stopping.mode=auto",
        ),
        ("decoding.max_length", 40, "max_length=40 must lie in 2 to 25"),
        ("decoding.num_beams", 0, "num_beams=0 must be 1 or more"),
        ("optimizer.warmup_steps", 1000, "warmup_steps=1000 must be below config.num_steps=1000"),
        ("num_steps", 60, "--config.optimizer.warmup_steps=6 would do"),
        ("log_every", 0, "log_every=0 must be 1 or more"),
        ("batch_size", 10**9, "batch_size=1000000000 must be 1 to 65536"),
        ("evaluation.batch_size", 10**9, "batch_size=1000000000 must be 1 to 65536"),
        ("dataset.num_threads", 10**6, "num_threads=1000000 must be 1 to 1024"),
        ("decoder.width", 10**9, "decoder.width=1000000000 must be 1 to 65536"),
        ("dataset.over_length", "split", "over_length='split' must be one of 'drop', 'cut'"),
    ],
)
def test_mistakes_are_found_before_training(field, value, message):
    config = base.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        checks.check(config)


def test_a_batch_far_larger_than_its_split_is_refused():
    config = base.get_config()
    config.batch_size = 2000
    checks.check_batch(config, "batch_size", 200, "mine/train")
    with pytest.raises(ConfigError, match=r"size=2000 is far more than the 10 images of mine"):
        checks.check_batch(config, "batch_size", 10, "mine/train")


def test_a_workdir_that_is_no_local_folder_is_refused_and_nothing_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("gs://bucket/run", "s3://bucket/run", "file:///run"):
        with pytest.raises(WorkdirError, match=f"--workdir {place} is a URL, and files are"):
            Workdir(place).check_place()
    with pytest.raises(WorkdirError, match=r"caf\\udce9' is not UTF-8, which checkpoints need"):
        Workdir("caf\udce9").check_place()
    with pytest.raises(OSError, match="a URL"):
        write_json("gs://bucket/run/a.json", 1)
    with pytest.raises(OSError, match="a URL"):
        check_free("s3://bucket/artefact")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("encoder", "name", "vgg", r"there is no encoder 'vgg'; there are conv, efficientnet_b0"),
        (
            "encoder",
            "name",
            "vit",
            "with name .vit. has unknown fields: class_token",
        ),
        ("encoder", "name", "conv", "with name .conv. has unknown fields: class_token"),
        ("decoder", "name", "gru", r"there is no decoder 'gru'; there are bahdanau, blip"),
        (None, "dtype", "float16", r"config.dtype='float16' must be one of 'float32', 'bfloat16'"),
    ],
)
def test_unknown_names_are_config_errors(section, field, value, message):
    config = base.get_config()
    (config[section] if section else config)[field] = value
    with pytest.raises(ConfigError, match=message):
        build.captioner(config, train_word_tokenizer(["a cat"]))


def test_config_json_is_plain(tmp_path):
    save(tmp_path, ConfigDict({"a": (1, 2), "b": None}))
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": [1, 2], "b": None}
