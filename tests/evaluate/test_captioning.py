"""Captions from batches: rows, attention, lengths, and figures of them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from capjax.data.tokenizer import train_word_tokenizer
from capjax.evaluate import captioning
from capjax.evaluate.attention_figures import attention_figure
from capjax.evaluate.attention_maps import grid_maps, word_maps
from capjax.evaluate.captioning import (
    BeamSearch,
    CaptionBatches,
    CaptionError,
    Sampling,
    make_decode,
)
from capjax.evaluate.control import SettingError
from capjax.evaluate.figures import figure_pixels, save_figure
from capjax.evaluate.methods import Consensus
from capjax.metrics.rewards.bleu4 import Bleu4
from capjax.models.captioner import Captioner
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.patch import PatchEncoder
from capjax.parallel import devices
from tests.helpers.effort import sweep

WORDS = ["a cat on the red mat", "two dogs in a park", "one bird over the sea"]


@pytest.fixture(scope="module")
def case():
    tokenizer = train_word_tokenizer(WORDS)
    model = Captioner(
        PatchEncoder(8, 16, 1, 2, class_token=True),
        TransformerDecoder(
            tokenizer.vocab_size, 8, 16, 2, 2, banned=tokenizer.banned_ids, tie_embeddings=True
        ),
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: np.asarray(x) + 0.5 * rng.normal(size=x.shape).astype(np.float32),
        model.init_variables(jax.random.key(0), (16, 16, 3)),
    )
    return model, tokenizer, variables, rng.integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module", name="search_with")
def make_search(case):
    """What a method is compiled to serves all tests."""
    found = {
        attention: CaptionBatches(case[0], case[1], attention=attention)
        for attention in (False, True)
    }

    def search_with(method, attention):
        return functools.partial(found[attention], method=method)

    return search_with


def captions(case, search, images, size):
    variables = case[2]

    def batches():
        for start in range(0, len(images), size):
            part = images[start : start + size]
            index = np.full(size, -1, np.int32)
            index[: len(part)] = np.arange(start, start + len(part))
            fill = np.zeros((size - len(part), *images.shape[1:]), np.uint8)
            yield {"image": np.concatenate([part, fill]), "index": index}

    found = dict(search(devices.replicate(variables), batches()))
    assert sorted(found) == list(range(len(images)))
    return [found[index] for index in range(len(images))]


BEAM = BeamSearch(num_beams=3, length_penalty=1.0, early_stopping=False, max_length=8)


def test_batches_and_filling_rows_change_nothing(case, search_with):
    whole = captions(case, search_with(BEAM, True), case[3], 5)
    parts = captions(case, search_with(BEAM, True), case[3], 2)
    assert [caption.text for caption in parts] == [caption.text for caption in whole]
    np.testing.assert_allclose(
        [caption.log_prob for caption in parts], [caption.log_prob for caption in whole], rtol=1e-4
    )
    assert len({caption.text for caption in whole}) > 1


SAMPLES = Sampling(2.0, 8, num_captions=3)
CONSENSUS = Consensus(SAMPLES, Bleu4(), "bleu4", table=np.int32(2))
METHODS = {"beam": BEAM, "greedy": Sampling(0.0, 8), "sampled": SAMPLES, "consensus": CONSENSUS}


@pytest.mark.parametrize("name", sweep(METHODS, ["beam", "consensus"]))
def test_attention_and_log_prob_are_those_of_teacher_forcing(case, search_with, name):
    method = METHODS[name]
    model, tokenizer, variables, images = case
    found = captions(case, search_with(method, True), images, 5)
    ids = [[tokenizer.encode(word)[0] for word in caption.words] for caption in found]
    said = [
        [*own, tokenizer.eos_id] if caption.finished else own
        for own, caption in zip(ids, found, strict=True)
    ]
    # What follows a caption's last word is not looked at.
    fed = [[tokenizer.bos_id, *own, *[tokenizer.pad_id] * 8][:8] for own in said]
    forced = jax.jit(functools.partial(model.apply, train=False, attention=True))(
        variables, images, np.array(fed, np.int32)[:, None]
    )
    every = zip(found, ids, said, forced.attention[:, 0], forced.logits[:, 0], strict=True)
    for caption, ids, targets, attention, logits in every:
        assert caption.text == " ".join(caption.words)
        assert caption.attention.shape == (len(ids), 4, 5)
        np.testing.assert_allclose(caption.attention, attention[: len(ids)], atol=1e-4)
        logs = jax.nn.log_softmax(logits)[np.arange(len(targets)), targets]
        np.testing.assert_allclose(caption.log_prob, logs.sum(), rtol=1e-3)


@pytest.mark.parametrize("method", sweep([BEAM, Sampling(1.0, 8)], [BEAM]))
def test_a_model_without_finite_numbers_is_refused(case, search_with, method):
    model, tokenizer, variables, images = case
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), variables)
    with pytest.raises(CaptionError, match="image 0, counted from 0, has no caption"):
        captions((model, tokenizer, broken, images), search_with(method, True), images, 5)


def test_greedy_is_one_beam_and_samples_differ(case, search_with):
    def texts(method):
        return [caption.text for caption in captions(case, search_with(method, True), case[3], 5)]

    one = BeamSearch(num_beams=1, length_penalty=1.0, early_stopping=False, max_length=8)
    assert texts(Sampling(0.0, 8)) == texts(one)
    assert texts(Sampling(1.0, 8)) == texts(Sampling(1.0, 8)) != texts(Sampling(1.0, 8, seed=1))


def test_one_program_samples_at_every_temperature_and_seed(case, monkeypatch):
    model, tokenizer, *_ = case
    made = []

    def counted(*arguments, **options):
        made.append(arguments)
        return make_decode(*arguments, **options)

    monkeypatch.setattr(captioning, "make_decode", counted)
    search = CaptionBatches(model, tokenizer)
    seeds = (0, 1, 2**31, 2**32 + 5, -1)
    methods = [Sampling(0.0, 8), Sampling(0.5, 8), *(Sampling(1.0, 8, seed) for seed in seeds)]
    texts = [
        [
            caption.text
            for caption in captions(case, functools.partial(search, method=m), case[3], 5)
        ]
        for m in methods
    ]
    assert len(made) == 1
    assert len({tuple(found) for found in texts}) == len(methods)
    with pytest.raises(ValueError, match=r"temperature must be 0 \(greedy\) or positive: -1"):
        next(search(case[2], [], Sampling(-1.0, 8)))


def test_maps_of_a_layer_are_its_own(case, search_with):
    """A layer whose queries are zero looks everywhere alike."""
    model, tokenizer, variables, images = case
    for layer in range(2):
        params = traverse_util.flatten_dict(variables["params"], sep="/")
        names = [name for name in params if f"blocks_{layer}/cross_attention/query" in name]
        assert names
        params |= {name: np.zeros_like(params[name]) for name in names}
        blind = {"params": traverse_util.unflatten_dict(params, sep="/")}
        found = captions((model, tokenizer, blind), search_with(BEAM, True), images, 5)
        maps = grid_maps(found[0])
        assert maps.shape == (len(found[0].words), 2, 2, 2, 2)
        np.testing.assert_allclose(maps[:, layer], 0.2, atol=1e-5)
        assert maps[:, 1 - layer].std(axis=(-2, -1)).min() > 1e-4


def test_word_maps_leave_the_class_token_out_and_keep_places(case, search_with):
    caption = captions(case, search_with(BEAM, True), case[3], 5)[0]
    attention = np.zeros_like(caption.attention)
    attention[..., 0] = 0.9  # The class token.
    attention[..., 1 + 2] = 0.1  # Row 1, column 0 of the 2x2 grid: the lower left.
    caption = type(caption)(**{**vars(caption), "attention": attention})
    maps = word_maps(caption, (40, 60))
    assert maps.shape == (len(caption.words), 40, 60)
    row, column = np.unravel_index(maps[0].argmax(), (40, 60))
    assert row > 20
    assert column < 30
    assert maps.min() >= 0


def test_figures_are_drawn_and_saved_whole(case, search_with, tmp_path):
    caption = captions(case, search_with(BEAM, True), case[3], 5)[0]
    caption = type(caption)(**{**vars(caption), "text": "costs $5 and $x_$"})
    figure = attention_figure(case[3][0], caption)
    pixels = figure_pixels(figure)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 10
    save_figure(figure, str(tmp_path / "deep" / "figure.png"))
    with Image.open(tmp_path / "deep" / "figure.png") as saved:
        assert saved.size[0] > 300
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["figure.png"]


def test_a_caption_without_attention_says_so(case, search_with):
    caption = captions(case, search_with(BEAM, False), case[3], 5)[0]
    assert caption.attention is None
    of_beams = dataclasses.replace(CONSENSUS, candidates=dataclasses.replace(BEAM, num_captions=3))
    with pytest.raises(SettingError, match="gives consensus no attention"):
        captions(case, search_with(of_beams, True), case[3], 5)
    with pytest.raises(ValueError, match="without attention"):
        word_maps(caption, (8, 8))
