"""Captioners of transformers caption and train here, and two checkpoints make a new one."""

import json
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from PIL import Image

import capjax
from capjax.caption import main
from capjax.config import checks
from capjax.config.errors import ConfigError
from capjax.data.batches import lay_out
from capjax.data.shapes.draw import draw
from capjax.data.shapes.grammar import captions_of
from capjax.data.shapes.scene import image_id, scene_of
from capjax.evaluate.captioning import BeamSearch
from capjax.pretrained.captioners.gpt2 import read_gpt2
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import WeightsError
from capjax.run.load import load_tokenizer
from capjax.run.train import train
from capjax.run.workdir import WorkdirError
from capjax.train.objective import teacher_forced
from capjax.train.optimizer import learning_rate_schedule
from configs import base, coco_vit_gpt2, folder_vit_gpt2, shapes_vit_gpt2
from tests.helpers.read_vit import read_vit
from tests.helpers.references import need_torch, need_transformers
from tests.helpers.small_bpe import write_bpe
from tests.helpers.small_pictures import write_pictures
from tests.helpers.small_run import write_small_run
from tests.helpers.tiny_run import shorten

torch = need_torch()
need_transformers()
from tests.helpers.transformers_captioners import generate, make, pixels, save_captioner  # noqa: E402
from tests.helpers.transformers_vits import pictures as pictures_of  # noqa: E402

CROSS = ("cross_attention", "norms_1")


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    """A captioner whose files say how to search."""
    folder = tmp_path_factory.mktemp("captioner")
    save_captioner(make(end=(4.0, 8.0)), folder)
    write_bpe(folder)
    file = folder / "generation_config.json"
    settings = {"num_beams": 3, "length_penalty": 2.0, "max_length": 12}
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


@pytest.fixture(scope="module", name="pictures")
def make_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def config_of(source, pictures, **fields):
    config = folder_vit_gpt2.get_config(source)
    short = {"dataset.cache_dir": str(pictures / "cache"), "dataset.max_length": 24}
    short |= {"dtype": "float32", "num_steps": 2, "eval_every": 2}
    short |= {"optimizer.learning_rate": 1e-2, "optimizer.warmup_steps": 0}
    short |= {"decoding.num_beams": 1, "decoding.max_length": 6}
    shorten(config, pictures, {**short, **fields})
    checks.check(config)
    return config


def test_a_folder_is_loaded_and_captions_as_transformers_does(folder, pictures):
    run = capjax.load(folder)
    # The size that the model sees, so that nobody resizes.
    squares = [
        np.asarray(Image.open(pictures / f"{number}.png").resize((16, 16))) for number in range(5)
    ]
    tokens, _ = generate(
        make(end=(4.0, 8.0)), np.stack(squares), num_beams=3, length_penalty=2.0, max_length=12
    )
    captions = run.caption(squares)
    assert [caption.text for caption in captions] == [run.tokenizer.decode(row) for row in tokens]
    assert len({caption.text for caption in captions}) > 1
    attention = run.caption(squares[:1], attention=True)[0]
    # Two layers of four heads; the class token and 4x4 patches.
    assert attention.attention.shape[1:] == (8, 17)
    assert (attention.grid, attention.prefix) == ((4, 4), 1)
    # Settings of one's own go over the folder's.
    greedy = run.caption(squares, method=BeamSearch(1, 1.0, False, 5))
    assert all(len(caption.words) <= 4 for caption in greedy)


def test_the_command_line_takes_a_model(folder, pictures, tmp_path):
    output = tmp_path / "out.jsonl"
    pictures = [str(pictures / f"{number}.png") for number in range(3)]
    common = ["--compilation_cache", "", "--output", str(output)]
    assert main(["--model", str(folder), *common, *pictures]) == 0
    rows = list(map(json.loads, output.read_text().splitlines()))
    run = capjax.load(folder)
    assert [row["caption"] for row in rows] == [c.text for c in run.caption(pictures)]
    about = json.loads((tmp_path / "out.jsonl.meta.json").read_text())
    assert about["decoding"]["num_beams"] == 3
    assert about["tokenizer"] == run.tokenizer.fingerprint == load_tokenizer(folder).fingerprint
    run = tmp_path / "run"
    write_small_run(run)
    for arguments, message in [
        (["--workdir", str(folder)], "is a captioner of transformers: give it as --model"),
        (["--model", str(run)], "give a run's folder as --workdir"),
        (["--model", str(tmp_path / "none")], "is no captioner of transformers"),
        (["--workdir", "runs/none"], "runs/none is no run"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main([*arguments, *pictures])
        assert message in str(caught.value)


def test_what_is_neither_here_nor_had_says_both(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WorkdirError, match=r"no such folder. As a name on huggingface.co: "):
        capjax.load("runs/nothing")


def test_a_captioner_is_trained_on(folder, pictures, tmp_path):
    """By its own tokenizer; and the run is loaded again without the folder."""
    config = config_of(f"{folder}/", pictures)
    train(config, str(tmp_path / "run"))
    start = json.loads((tmp_path / "run" / "start.json").read_text())
    assert (start["taken"], start["fresh"]) == (["encoder", "adapter", "decoder"], [])
    run = capjax.load(tmp_path / "run")
    assert run.tokenizer.fingerprint == load_tokenizer(folder).fingerprint
    before, after = flat(read_captioner(folder).variables), flat(run.variables)
    assert before.keys() == after.keys()
    # A first update of Adam is of the learning rate: from these parameters, and of all of them.
    for name, leaf in before.items():
        moved = np.abs(after[name] - leaf)
        assert moved.max() < 0.1, name
        assert moved.max() > 1e-3, name
    rows = list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))
    assert [row["group"] for row in rows].count("validation") == 1


@pytest.mark.parametrize("freeze", [False, True])
def test_two_checkpoints_are_put_together(folder, pictures, tmp_path, caplog, freeze):
    """What attends to the image is fresh, and alone trains where GPT-2 is frozen."""
    gpt2, vit = tmp_path / "gpt2", tmp_path / "vit"
    theirs = make()
    for part, at in ((theirs.encoder, vit), (theirs.decoder, gpt2)):
        at.mkdir()
        part.config.add_cross_attention = False
        part.save_pretrained(at)
    file = gpt2 / "model.safetensors"
    own = safetensors.numpy.load_file(file)
    own = {n: a for n, a in own.items() if not any(p in n for p in ("crossatt", "ln_cross"))}
    safetensors.numpy.save_file(own, file)
    write_bpe(gpt2)
    (vit / "preprocessor_config.json").write_bytes(
        (folder / "preprocessor_config.json").read_bytes()
    )
    fields = {"encoder.trainable": () if freeze else ("all",), "decoder.frozen": freeze}
    config = config_of(f"{vit}/,{gpt2}/", pictures, **fields)
    train(config, str(tmp_path / "run"))
    assert "randomly initialised: blocks_*/cross_attention/key_value" in caplog.text
    run = capjax.load(tmp_path / "run")
    before = {f"encoder/{n}": a for n, a in flat(read_vit(vit)[1]["params"]).items()}
    before |= {f"decoder/{n}": a for n, a in flat(read_gpt2(gpt2)[1]).items()}
    after = flat(run.variables["params"])
    fresh = after.keys() - before.keys()
    assert all(n.startswith("adapter/") or any(part in n for part in CROSS) for n in fresh)
    for name, leaf in before.items():
        assert (leaf == after[name]).all() == freeze, name
        np.testing.assert_allclose(after[name], leaf, atol=0.1)
    start = json.loads((tmp_path / "run" / "start.json").read_text())
    assert start == {"decoder_weights": f"{gpt2}/"}


def test_a_frozen_gpt2_needs_weights_and_fields_are_theirs(folder, pictures, tmp_path):
    config = shapes_vit_gpt2.get_config()
    config.decoder.frozen = True
    with pytest.raises(ConfigError, match=r"config\.decoder\.frozen would keep randomly"):
        checks.check(config)
    config = config_of(f"{folder}/", pictures, **{"init_from": "", "decoder.weights": str(folder)})
    with pytest.raises(WeightsError, match="model_type is 'vision-encoder-decoder'"):
        train(config, str(tmp_path / "run"))


def test_the_recipes_are_whole(folder):
    checks.check(shapes_vit_gpt2.get_config())
    config = coco_vit_gpt2.get_config(f"{folder}/")
    checks.check(config)
    assert config.optimizer.schedule == "linear"
    assert config.decoding.num_beams == 3
    assert config.dataset.max_length == config.decoder.max_length == 24


def test_a_linear_schedule_rises_and_falls_in_lines():
    schedule = learning_rate_schedule(2.0, 10, 50, "linear")
    found = [float(schedule(step)) for step in range(51)]
    np.testing.assert_allclose(found[:11], np.linspace(0, 2, 11), atol=1e-6)
    np.testing.assert_allclose(found[10:], np.linspace(2, 0, 41), atol=1e-6)
    assert float(learning_rate_schedule(2.0, 0, 50, "linear")(0)) == 2.0


def test_the_end_is_learned_and_the_pads_are_not(folder):
    """GPT-2's tokenizer ends and pads with one token: loss and gradient are those of transformers.

    There whoever makes the batch puts -100 over the pads, and over the pads alone.
    """
    theirs, found = make(end=(4.0, 8.0)), read_captioner(folder)
    captions = ["A dog \N{DOG FACE}", " the Cat!", "two dogs, a cat and the man"]
    ids = [[np.array([*found.tokenizer.encode(text), 0])] for text in captions]
    tokens, lengths = lay_out(ids, 1, 20, found.tokenizer)
    images = pictures_of((16, 16), 3)
    theirs.config.pad_token_id = theirs.config.decoder_start_token_id = 0
    labels = np.where(np.arange(20) < lengths, tokens[:, 0, 1:], -100)
    assert (labels == 0).sum() == 3
    theirs(pixel_values=pixels(images), labels=torch.from_numpy(labels).long()).loss.backward()
    batch = {"image": images, "tokens": tokens, "lengths": lengths}

    @jax.jit
    def loss(variables):
        _, losses = teacher_forced(found.module(), variables, batch)
        sums = losses.sums()
        return sums["loss"] / sums["tokens"]

    value, gradient = jax.value_and_grad(loss)(found.variables)
    again = theirs(pixel_values=pixels(images), labels=torch.from_numpy(labels).long()).loss
    np.testing.assert_allclose(value, again.item(), rtol=1e-5)
    embedding = gradient["params"]["decoder"]["tokens"]["embedding"]
    expected = theirs.decoder.transformer.wte.weight.grad.numpy()
    np.testing.assert_allclose(embedding, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow(reason="a longer training; that two updates are right is tested above")
def test_the_small_variant_learns(tmp_path):
    """On pictures of `shapes`, by the recipe's own model of one block on each side."""
    rows = ["image,caption,split"]
    for number in range(68):
        split = "train" if number < 64 else "validation"
        scene = image_id(split, number)
        Image.fromarray(draw(scene_of(scene))).save(tmp_path / f"{number}.png")
        rows += [f'{number}.png,"{caption}",{split}' for caption in captions_of(scene)]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    config = shapes_vit_gpt2.get_config()
    pixels_as = {name: config.dataset[name] for name in ("image_size", "max_length")}
    config.dataset = base.folder_dataset()
    config.dataset.update({"file": str(tmp_path / "captions.csv"), "cache_dir": "", **pixels_as})
    config.early_stopping.metric = "loss"
    config.early_stopping.mode = "min"
    config.encoder.depth = config.decoder.num_layers = 1
    config.batch_size = 8
    config.num_steps, config.eval_every, config.log_every = 24, 24, 6
    config.optimizer.warmup_steps = 4
    config.evaluation.batch_size = 4
    config.evaluation.num_samples = 0
    config.decoding.num_beams = 1
    train(config, str(tmp_path / "run"))
    rows = list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))
    losses = [row["loss"] for row in rows if row["group"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
