"""What a run says, transformers says from the folder that it was exported to."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.cli.export import main
from capjax.config import build
from capjax.data.images import load_pixels
from capjax.data.tokenizer import train_word_tokenizer
from capjax.evaluate.captioning import make_decode
from capjax.pretrained.captioners.export_captioner import write_captioner
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import ExportError
from capjax.run.generation import generation_of
from configs import base
from tests.helpers import command_line
from tests.helpers.references import need_torch, need_transformers
from tests.helpers.small_run import WORDS, write_run

torch = need_torch()
transformers = need_transformers()

# By how much the end's logit is raised, that some captions end early.
ENDS = {"no class token": 5, "class token": 12}
# Compiling takes longer than all else here.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TEXTS = [WORDS, "A d, c!  j", "<eos> a <pad>", "t-shirt é", ""]


def config_of(name):
    config = base.get_config()
    config.encoder.update(patch_size=8, width=24, depth=2, num_heads=3, mlp_ratio=1.5)
    config.decoder = base.gpt2_decoder()
    config.decoder.update(width=24, num_layers=2, num_heads=2, mlp_ratio=2.0, max_length=12)
    config.decoding.update(num_beams=3, length_penalty=0.6, max_length=9)
    config.dataset.update(image_size=32, max_length=8)
    if name == "class token":
        config.encoder.update(class_token=True, positions="sincos")
        config.decoder.width = 32
        config.adapter = base.adapter()
        config.adapter.update(width=32, norms=False, positions="none", depth=0)
        config.decoding.early_stopping = "true"
        config.dataset.update(resize_to=35, keep_aspect=True, interpolation="bicubic")
    return config


def loud(params, end):
    """Random parameters with which different pictures have different captions, of some words."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype("f"), params)
    params["encoder"]["patch_embedding"]["kernel"] *= 2
    decoder = params["decoder"]
    decoder["positions"]["embedding"] *= 3
    decoder["tokens"]["embedding"] *= 2
    decoder["last_norm"]["scale"] *= 3
    for number in range(2):
        look = decoder[f"blocks_{number}"]["cross_attention"]
        look["query"]["kernel"] *= 8
        look["key_value"]["kernel"] *= 2
    # Where the end is good, pad and unk would be so, too.
    bias = decoder["last_norm"]["bias"]
    decoder["tokens"]["embedding"][[0, 2, 3]] += end * bias / (bias @ bias)
    return params


@pytest.fixture(scope="module", params=["no class token", "class token"], name="exported")
def make_exported(request, home, tmp_path_factory):
    """A run, and the folder that it was exported to."""
    directory, folder = (tmp_path_factory.mktemp(name) for name in ("run", "out"))
    config = config_of(request.param)
    tokenizer = train_word_tokenizer([WORDS] * 5)
    model = build.captioner(config, tokenizer)
    params = loud(build.shapes(config, model)["params"], ENDS[request.param])
    write_run(directory, config, tokenizer, {"params": params})
    flags = ["--workdir", str(directory), "--to", str(folder)]
    if request.param == "class token":
        main(flags)
    else:
        done = command_line.call(home, "capjax.pretrained.export", *flags)
        assert f"reading {directory}\n" in done.stderr
        said = done.stdout.splitlines()
        assert said[0].startswith(f"wrote {folder} of {directory}, step 0: config.json, ")
        assert said[2] == f"model = VisionEncoderDecoderModel.from_pretrained({str(folder)!r})"
        assert len(said) == 4
    return capjax.load(directory), folder


def pictures(count):
    """Of odd sizes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
        yield noise.resize((41 + 3 * number, 67 - number), Image.Resampling.BICUBIC)


def theirs(folder):
    kind = transformers.VisionEncoderDecoderModel
    model, about = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(about.values()), about
    about = json.loads((folder / "preprocessor_config.json").read_text())
    # By Pillow, as pixels are made here; where torchvision is installed, Auto takes that.
    kind = getattr(transformers, f"{about['image_processor_type']}Pil")
    return model.eval(), kind.from_pretrained(folder)


def generate(model, pixels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(pixel_values=pixels, return_dict_in_generate=True, output_scores=True)


def test_captions_are_the_same(exported):
    run, folder = exported
    images, tokenizer = list(pictures(20)), run.tokenizer
    method = build.beam_search(run.config.decoding)
    decode = make_decode(run.model, tokenizer, method, attention=False)

    @jax.jit(compiler_options=QUICK)
    def caption(variables, images):
        memory = run.model.apply(variables, images, method="encode")
        return decode(variables, memory, np.arange(len(images)))

    seen = np.stack([load_pixels(image, build.resize(run.config.dataset)) for image in images])
    found = caption(run.variables, seen)
    leaves = ("tokens", "lengths", "scores", "finished")
    ours = {name: np.asarray(getattr(found, name))[:, 0] for name in leaves}
    model, processor = theirs(folder)
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    found = generate(model, pixels)
    tokens = found.sequences.numpy()[:, 1:]
    # After an end theirs has more of it where the pad's id is 0.
    told = np.arange(tokens.shape[1]) < ours["lengths"][:, None]
    padded = np.where(told, tokens, tokenizer.pad_id)
    np.testing.assert_array_equal(ours["tokens"][:, : tokens.shape[1]], padded)
    assert set(tokens[~told]) == {tokenizer.eos_id}
    assert not ours["tokens"][:, tokens.shape[1] :].any()
    np.testing.assert_allclose(ours["scores"], found.sequences_scores.numpy(), rtol=1e-4)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    texts = words.batch_decode(found.sequences, skip_special_tokens=True)
    assert texts == [tokenizer.decode(row) for row in ours["tokens"]]
    # There was something to be the same.
    assert len({*texts}) > 10
    assert 0.1 < ours["finished"].mean() < 1
    # Without what bans them, others would be said.
    model.generation_config.suppress_tokens = None
    free = generate(model, pixels).sequences.numpy()[:, 1:]
    assert np.isin(free, tokenizer.banned_ids).any()


def test_logits_and_pixels_are_the_same(exported):
    run, folder = exported
    images = list(pictures(5))
    model, processor = theirs(folder)
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    resize = build.resize(run.config.dataset)
    seen = np.stack([load_pixels(image, resize) for image in images])
    grey = (pixels.permute(0, 2, 3, 1).numpy() + 1) * 127.5
    assert grey.shape == seen.shape
    assert np.abs(grey - seen).max() <= 1.01
    tokens = np.random.default_rng(0).integers(0, 20, (5, 9))

    @jax.jit(compiler_options=QUICK)
    def logits(variables, images, tokens):
        return run.model.apply(variables, images, tokens[:, None], train=False).logits[:, 0]

    ours = np.array(logits(run.variables, seen, tokens))
    with torch.no_grad():
        given = torch.from_numpy((seen / 127.5 - 1).astype("f")).permute(0, 3, 1, 2)
        found = model(pixel_values=given, decoder_input_ids=torch.from_numpy(tokens)).logits.numpy()
    allowed = [token for token in range(20) if token not in run.tokenizer.banned_ids]
    difference = np.abs(ours - found)[..., allowed].max()
    assert difference <= 1e-4 * np.abs(found[..., allowed]).max()


def test_texts_have_the_same_tokens(exported):
    run, folder = exported
    words = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = run.tokenizer
    assert (words.pad_token_id, words.bos_token_id, words.eos_token_id) == (0, 1, 2)
    assert words.vocab_size == tokenizer.vocab_size
    for text in TEXTS:
        ids = words(text)["input_ids"]
        assert ids == tokenizer.encode(text), text
        known = [token for token in ids if token != tokenizer.unk_id]
        assert words.decode([1, *known, 2, 0], skip_special_tokens=True) == tokenizer.decode(known)


def test_what_went_out_comes_in_and_goes_out_again(exported, tmp_path):
    run, folder = exported
    found = read_captioner(folder)
    assert found.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert found.module().decoder.banned == (0, 1, 3)
    assert found.resize == build.resize(run.config.dataset)
    method = build.beam_search(run.config.decoding)
    assert found.generation == generation_of(method, run.tokenizer)
    # What its file has no field for is named.
    for more in ({"length_normalization": "gnmt"}, {"control": capjax.Control(bad_endings=("a",))}):
        with pytest.raises(ExportError, match="is none of transformers' settings"):
            generation_of(dataclasses.replace(method, **more), run.tokenizer)
    write_captioner(found, tmp_path / "again")
    for file in folder.iterdir():
        again = (tmp_path / "again" / file.name).read_bytes()
        if file.name == "config.json":
            # Dropout is no part of what is read.
            config = json.loads(file.read_text())
            for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
                assert config["decoder"].pop(name) == 0.1
            assert json.loads(again) == config
        else:
            assert again == file.read_bytes(), file.name
