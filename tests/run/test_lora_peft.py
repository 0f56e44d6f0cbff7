"""Adapters of published captioners, from the recipe to PEFT and back."""

import importlib

import jax
import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.caption import main as caption
from capjax.cli.export import main as export
from capjax.config import checks
from capjax.models.lora import merge
from capjax.pretrained.errors import WeightsError
from capjax.run.train import train
from tests.helpers.references import need_peft
from tests.helpers.small_pictures import write_pictures
from tests.helpers.tiny_run import shorten

peft = need_peft()
from tests.helpers.peft_kinds import KINDS, QUIET  # noqa: E402
from tests.helpers.transformers_vits import assert_close  # noqa: E402

pytestmark = QUIET
SHORT = {
    "dataset.cache_dir": "",
    "dataset.max_length": 24,
    "dtype": "float32",
    "num_steps": 2,
    "eval_every": 2,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 0.1,
    "decoding.max_length": 8,
}


def recipe(name, folder, pictures, **fields):
    module = importlib.import_module(f"configs.folder_{name}")
    config = shorten(module.get_config(f"lora:{folder}/"), pictures, {**SHORT, **fields})
    checks.check(config)
    return config


def write_files(name, tmp_path):
    """The folders of pictures and of a captioner, and its model."""
    kind, save, write_tokenizer = KINDS[name]
    pictures, folder = tmp_path / "pictures", tmp_path / "theirs"
    for place in (pictures, folder):
        place.mkdir()
    write_pictures(pictures)
    save(model := kind.make(depth=1), folder)
    write_tokenizer(folder)
    return pictures, folder, model


@pytest.mark.slow(reason="a training; PEFT's folders and runs of adapters are tested every day")
@pytest.mark.parametrize("name", ["blip", "vit_gpt2"])
def test_a_run_goes_to_peft_and_comes_back(name, tmp_path, capsys):
    kind, (pictures, folder, model) = KINDS[name][0], write_files(name, tmp_path)
    train(recipe(name, folder, pictures), str(tmp_path / "run"))
    export(["--format", "peft", "--workdir", str(tmp_path / "run"), "--to", str(tmp_path / "out")])
    assert f"from_pretrained('{folder}/'), '{tmp_path / 'out'}')" in capsys.readouterr().out
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "out").eval()
    run = capjax.load(tmp_path / "run")
    images = [np.asarray(Image.open(pictures / f"{n}.png").resize((16, 16))) for n in range(3)]
    images = np.stack(images)
    tokens = np.random.default_rng(0).integers(4, 20, (3, 7))
    forward = jax.jit(lambda v, x, t: run.model.apply(v, x, t, train=False).logits[:, 0])
    found = forward(run.variables, images, tokens[:, None])
    assert_close(np.asarray(found), kind.logits(theirs, images, tokens), relative=1e-4)
    # The base with the folder is the run.
    again = capjax.load(folder, adapter=tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.variables, run.variables)


@pytest.mark.slow(reason="a training; PEFT's folders and runs of adapters are tested every day")
def test_training_goes_on_from_a_folder_of_peft(tmp_path):
    """Of a GIT: its own way out is compared in tests/pretrained/test_peft.py."""
    pictures, folder, model = write_files("git", tmp_path)
    out = tmp_path / "out"
    target = ["query", "value", "q_proj", "v_proj"]
    peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=32, target_modules=target, init_lora_weights=False)
    ).save_pretrained(out)
    fields = {"lora.weights": str(out), "optimizer.learning_rate": 1e-30}
    with pytest.raises(WeightsError, match=r"set config\.lora\.alpha=16"):
        train(recipe("git", folder, pictures, **fields, **{"lora.rank": 2}), str(tmp_path / "no"))
    train(recipe("git", folder, pictures, **fields), str(tmp_path / "more"))
    run = capjax.load(tmp_path / "more", merged=False)
    found = capjax.load(folder, adapter=out).variables
    merged = merge(run.variables, run.model.lora.scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), merged, found)
    common = ["--compilation_cache", "", "--model", str(folder), "--adapter", str(out)]
    assert caption([*common, str(pictures / "0.png")]) == 0
