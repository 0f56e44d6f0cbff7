"""BLIP and GIT are trained on by the shipped recipes, and a run goes back to transformers."""

import importlib
import json

import jax
import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.config import build, checks
from capjax.config.identity import flat
from capjax.pretrained.captioners.captioner import FAMILIES
from capjax.pretrained.captioners.export_captioner import write_captioner
from capjax.pretrained.captioners.exportable import exportable
from capjax.pretrained.captioners.families.blip import Blip
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import WeightsError
from capjax.train.writer import read_metrics
from tests.helpers import command_line
from tests.helpers.references import need_torch, need_transformers
from tests.helpers.small_pictures import write_pictures
from tests.helpers.small_wordpiece import write_wordpiece
from tests.helpers.tiny_run import shorten

need_torch()
need_transformers()
from tests.helpers import transformers_blips, transformers_gits  # noqa: E402
from tests.helpers.transformers_captioners import generate  # noqa: E402

KINDS = {"blip": transformers_blips, "git": transformers_gits}


def save(kind, folder, **fields):
    kind.save_folder(kind.make(end=kind.RAISED, **fields), folder)
    write_wordpiece(folder)


def recipe(name, folder, pictures, **fields):
    """The shipped config, with few steps and `fields`."""
    config = importlib.import_module(f"configs.folder_{name}").get_config(f"{folder}/")
    short = {"dataset.cache_dir": "", "dataset.max_length": 12, "dtype": "float32"}
    short |= {"num_steps": 2, "eval_every": 2, "optimizer.warmup_steps": 0}
    short |= {"optimizer.learning_rate": 1e-3, "decoding.max_length": 8, **fields}
    shorten(config, pictures, short)
    checks.check(config)
    return config


@pytest.mark.parametrize("name", KINDS)
def test_a_run_is_what_it_was_read_as(name, tmp_path):
    """The model of the recipe with their parameters goes back as it came."""
    save(KINDS[name], tmp_path)
    found, config = read_captioner(tmp_path), recipe(name, tmp_path, tmp_path)
    model, resize = build.captioner(config, found.tokenizer), build.resize(config.dataset)
    back = exportable(model, found.variables, found.tokenizer, resize, found.generation)
    assert (back.family, back.encoder, back.resize) == (found.family, found.encoder, found.resize)
    assert back.fields.decoder == found.fields.decoder
    jax.tree.map(np.testing.assert_array_equal, back.variables, found.variables)


@pytest.mark.slow(reason="two trainings; recipes and the way back are tested apart every day")
@pytest.mark.parametrize("name", KINDS)
def test_it_is_trained_and_goes_back(name, home, tmp_path):
    """As a user does it: by the command line, and by transformers afterwards."""
    kind, pictures, folder = KINDS[name], tmp_path / "pictures", tmp_path / "theirs"
    for place in (pictures, folder):
        place.mkdir()
    write_pictures(pictures)
    save(kind, folder, depth=1)
    run_folder, out = tmp_path / "run", tmp_path / "out"
    config = recipe(name, folder, pictures, num_steps=40, eval_every=40)
    fields = flat(config)
    usual = flat(importlib.import_module(f"configs.folder_{name}").get_config(f"{folder}/"))
    flags = [f"--config.{n}={value}" for n, value in fields.items() if usual[n] != value]
    command_line.main(
        home, "--workdir", run_folder, *flags, config=f"configs/folder_{name}.py:{folder}/"
    )
    rows = read_metrics(str(run_folder / "metrics.jsonl"))
    losses = [row["loss"] for row in rows if "grad_norm" in row]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    start = json.loads((run_folder / "start.json").read_text())
    assert (start["taken"], start["fresh"]) == (["encoder", "decoder"], [])

    squares = [Image.open(pictures / f"{n}.png").convert("RGB").resize((16, 16)) for n in range(6)]
    squares = np.stack([np.asarray(square) for square in squares])
    run = capjax.load(run_folder)
    settings = {name: config.decoding[name] for name in ("num_beams", "length_penalty")}

    def theirs(place):
        model = kind.CLASS.from_pretrained(place).eval()
        tokens, _ = generate(model, squares, **settings, max_length=8, early_stopping=False)
        return [run.tokenizer.decode(row) for row in tokens]

    found, first = [caption.text for caption in run.caption(squares)], theirs(folder)
    assert sum(a != b for a, b in zip(found, first, strict=True)) >= 4
    done = command_line.call(home, "capjax.cli.export", "--workdir", run_folder, "--to", out)
    assert f"{kind.CLASS.__name__}.from_pretrained" in done.stdout
    assert ("Its generate reads no settings" in done.stdout) == (name == "blip")
    assert found == theirs(out)
    jax.tree.map(np.testing.assert_array_equal, capjax.load(out).variables, run.variables)


def test_a_family_of_ones_own_is_one_class(tmp_path, monkeypatch):
    save(transformers_blips, tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    expected = read_captioner(tmp_path)
    file.write_text(json.dumps({**config, "model_type": "my-own"}))
    with pytest.raises(WeightsError, match="is 'my-own', and a captioner's is 'blip', 'git', 'vis"):
        read_captioner(tmp_path)

    class MyOwn(Blip):
        model_type = "my-own"

    monkeypatch.setattr(FAMILIES, "_registered", {})
    FAMILIES.register("my_own", MyOwn())
    run = capjax.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, run.variables, expected.variables)
    write_captioner(read_captioner(tmp_path), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "my-own"
