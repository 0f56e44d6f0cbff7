"""The code of docs/extending.md is run as it stands there."""

import importlib
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from PIL import Image

import capjax
from capjax.config import build, checks
from capjax.config.errors import ConfigError
from capjax.metrics.reward import WeightedSum
from capjax.parts import DATASETS, DECODERS, ENCODERS, METRICS, OBJECTIVES, REWARDS
from capjax.pretrained.captioners.captioner import FAMILIES
from capjax.pretrained.captioners.export_captioner import write_captioner
from capjax.pretrained.captioners.exportable import exportable
from capjax.pretrained.captioners.read import read_captioner
from capjax.run.evaluate import evaluate
from capjax.run.train import train
from tests.helpers.small_captioner_files import write_captioner_files

PAGE = Path(__file__).parent.parent / "docs/extending.md"
REGISTRIES = (DATASETS, DECODERS, ENCODERS, FAMILIES, METRICS, OBJECTIVES, REWARDS)


@pytest.fixture(scope="module", name="own")
def make_own(tmp_path_factory):
    """The folder of the page's files, which can be imported and have registered their parts."""
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```python file=(\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, code in blocks:
        (folder / name).write_text(code)
    before = [dict(registry._registered) for registry in REGISTRIES]
    modules = [Path(name).stem for name, _ in blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for module in modules:
            importlib.import_module(module)
        yield folder
    for registry, registered in zip(REGISTRIES, before, strict=True):
        registry._registered = registered
    for module in modules:
        del sys.modules[module]


@pytest.mark.slow(
    reason="capjax.testing compiles its searches; its own decoders keep the laws every day"
)
def test_the_decoder_keeps_the_contract(own):
    sys.modules["test_my_decoder"].test_the_contract()


def draw(folder, count):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
        name = f"a_{'red' if number % 2 else 'blue'}_house_{'number' * (number % 3)}"
        Image.fromarray(pixels).save(folder / f"{name}{number}.png")


@pytest.fixture(scope="module", name="run")
def make_run(own):
    """A trained run in which every part is the page's, and its config."""
    draw(own / "drawings/train", 8)
    draw(own / "drawings/validation", 4)
    base = sys.modules["my_config"].base
    config = sys.modules["my_config"].get_config()
    checks.check(config)
    config.dataset = base.own_dataset("drawings", root=str(own / "drawings"))
    config.dataset.image_size, config.dataset.cache_dir = 16, ""
    config.encoder = ConfigDict({"name": "pooled", "width": 16})
    config.decoder.width = 16
    config.objective = ConfigDict({"name": "uncertain", "weight": 0.05})
    config.evaluation.metrics = ("words",)
    config.early_stopping.metric = "words"
    config.batch_size = config.evaluation.batch_size = 4 * jax.local_device_count()
    config.num_steps, config.eval_every, config.log_every = 2, 2, 1
    config.optimizer.warmup_steps = 1
    config.evaluation.num_samples, config.decoding.max_length = 1, 6
    train(config, str(own / "run"))
    return own / "run", config


@pytest.mark.slow(reason="a run of its own; each part is tried every day")
def test_a_run_of_own_parts_trains_evaluates_and_captions(run, own):
    workdir, config = run
    metrics = evaluate(config, str(workdir), split="validation", checkpoint="best")
    assert 0 <= metrics["words"] <= 5
    log = (workdir / "metrics.jsonl").read_text()
    assert "entropy" in log
    picture = next((own / "drawings/train").iterdir())
    assert capjax.load(workdir).caption([str(picture)])[0].text is not None


@pytest.mark.slow(reason="a run of its own; each part is tried every day")
def test_a_workdir_names_no_code_and_the_error_says_what_is_missing(run, monkeypatch):
    workdir, _ = run
    monkeypatch.delitem(DECODERS._registered, "dot_gru")
    with pytest.raises(ValueError, match=r"no decoder 'dot_gru'.*--parts FILE_OR_MODULE") as raised:
        capjax.load(workdir)
    for name in ("bahdanau", "blip", "git", "gpt2", "transformer"):
        assert name in str(raised.value)


def test_a_captioner_of_ones_own_is_one_file(own, tmp_path):
    write_captioner_files(tmp_path / "theirs", kind="git", model_type="postcard")
    found = read_captioner(tmp_path / "theirs", weights=False)
    shapes = jax.eval_shape(lambda: found.module().init_variables(jax.random.key(0), (8, 8, 3)))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f"), shapes)
    of_run = found.resize, found.generation
    written = exportable(found.module(), drawn, found.tokenizer, *of_run)
    assert type(written.family).__name__ == "Postcard"
    write_captioner(written, tmp_path / "own")
    names = safetensors.numpy.load_file(tmp_path / "own/model.safetensors")
    assert {name.split(".")[0] for name in names} == {"vision", "text", "bridge"}
    about = json.loads((tmp_path / "own/config.json").read_text())
    assert (about["model_type"], about["num_attention_heads"]) == ("postcard", 2)
    run = capjax.load(tmp_path / "own")
    jax.tree.map(np.testing.assert_array_equal, run.variables, drawn)
    assert 1 <= len(run.caption([np.zeros((8, 8, 3), np.uint8)])[0].log_probs) <= 5
    config = sys.modules["my_config"].base.get_config()
    sys.modules["my_config"].base.use_captioner(config, str(tmp_path / "own"))
    assert config.decoder.name == "postcard"
    config.dataset.max_length = config.decoder.max_length
    checks.check(config)


def test_fields_of_own_parts_are_checked_by_their_types(own):
    config = sys.modules["my_config"].get_config()
    config.decoder.width = 0
    with pytest.raises(ConfigError, match=r"config\.decoder\.width=0 must be 1 or more"):
        checks.check(config)
    config.decoder.width = 8
    config.objective = ConfigDict({"name": "uncertain", "weight": -1.0})
    with pytest.raises(ConfigError, match=r"config\.objective\.weight=-1\.0 must be 0 or more"):
        checks.check(config)
    config.objective = ConfigDict({"name": "uncertain", "weigth": 1.0})
    with pytest.raises(ConfigError, match=r"has no weigth; did you mean objective\.weight"):
        checks.check(config)
    config.objective.name = "self_critical_sequences"
    with pytest.raises(ConfigError, match="there are cross_entropy, self_critical, uncertain"):
        checks.check(config)


def test_a_reward_of_ones_own_is_added_to_others(own):
    both = WeightedSum((REWARDS.get("distinct")(), REWARDS.get("bleu4")()), (1.0, 0.0))
    table = both.prepare([], eos_id=2, vocab_size=5)
    captions = np.array([[[3, 4, 2, 2], [3, 3, 3, 2]]]), np.array([[3, 4]])
    np.testing.assert_allclose(both(table, *captions, *captions), [[1.0, 0.5]])


@pytest.mark.parametrize("mode", ["auto", "max", "min"])
def test_any_mode_fits_a_metric_of_ones_own(own, mode):
    config = sys.modules["my_config"].get_config()
    config.evaluation.metrics = ("words",)
    config.early_stopping.update(metric="words", mode=mode)
    checks.check(config)


def test_a_name_of_capjax_can_not_be_taken():
    with pytest.raises(ValueError, match="capjax has a decoder 'gpt2' already"):
        DECODERS.register("gpt2", object)


def test_a_part_may_be_named_by_its_module(own):
    DECODERS.register("later", "my_decoder:DotGRU")
    config = sys.modules["my_config"].get_config()
    config.decoder.name = "later"
    assert type(build.captioner_of(config, 9).decoder).__name__ == "DotGRU"
