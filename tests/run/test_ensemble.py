"""An ensemble says the mean of what its members say, through every method."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.cli import score
from capjax.config import build
from capjax.data.tokenizer import train_word_tokenizer
from capjax.models.ensemble import AttentionError
from capjax.run.ensemble import EnsembleError
from configs import base
from tests.helpers.effort import sweep
from tests.helpers.small_run import WORDS, fresh, small_config, write_run

METHODS = {
    "beam": capjax.BeamSearch(3, 1.0, False, 6),
    "sampled": capjax.Sampling(1.0, 6, seed=3, num_captions=2),
}


def recurrent():
    config = small_config()
    config.decoder = base.bahdanau_decoder()
    config.decoder.update(width=16, embed_dim=16, attention_dim=8)
    return config


@pytest.fixture(scope="module", name="workdirs")
def make_workdirs(tmp_path_factory):
    """A transformer and an LSTM with one vocabulary, whose parameters are loud."""
    tokenizer, found = train_word_tokenizer([WORDS] * 5), []
    for number, config in enumerate((small_config(), recurrent())):
        config.seed, config.evaluation.batch_size = number, 4
        config.decoding.num_beams, config.decoding.max_length = 2, 6
        loud = jax.tree.map(lambda leaf: np.asarray(leaf) * 3, fresh(config, tokenizer))
        directory = tmp_path_factory.mktemp("run")
        write_run(directory, config, tokenizer, loud)
        found.append(directory)
    return found


@pytest.fixture(scope="module", name="runs")
def make_runs(workdirs):
    return [capjax.load(directory) for directory in workdirs]


@pytest.fixture(scope="module", name="images")
def make_images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("name", sweep(METHODS, []))
def test_one_is_the_run_and_two_copies_say_the_same(runs, images, name):
    method = METHODS[name]
    expected = runs[0].caption(images, method=method)
    assert capjax.ensemble(runs[:1]).caption(images, method=method) == expected
    twice = capjax.ensemble([runs[0], runs[0]]).caption(images, method=method)
    for one, two in zip(expected, twice, strict=True):
        assert (one.text, one.words) == (two.text, two.words)
        np.testing.assert_allclose(one.log_probs, two.log_probs, rtol=1e-4, atol=1e-5)
        assert len(one.alternatives) == method.num_captions - 1


@pytest.mark.parametrize(
    "average", sweep(["probabilities", "log_probabilities"], ["probabilities"])
)
def test_log_probabilities_are_the_mean_by_hand(runs, images, average):
    """Of two architectures, stepped and teacher-forced."""
    both = capjax.ensemble(runs, average)
    said = both.caption(images, method=METHODS["beam"], attention=True)
    scored = both.score(images, [caption.text for caption in said])
    for image, caption, given in zip(images, said, scored, strict=True):
        ids = [both.tokenizer.bos_id, *both.tokenizer.encode(caption.text)]
        logs = []
        for run in runs:
            logits = run.model.apply(
                run.variables, image[None], jnp.array([[ids]]), train=False
            ).logits
            logs.append(jax.nn.log_softmax(logits[0, 0]))
        mean = np.logaddexp(*logs) if average == "probabilities" else np.mean(logs, 0)
        mean = np.asarray(jax.nn.log_softmax(mean))
        told = [*ids[1:], both.tokenizer.eos_id]
        expected = mean[np.arange(len(told)), told]
        count = len(caption.log_probs)
        np.testing.assert_allclose(caption.log_probs, expected[:count], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(sum(caption.log_probs), caption.log_prob, rtol=1e-5)
        assert caption.attention.shape[:2] == (len(caption.words), 1)
        np.testing.assert_allclose(caption.attention.sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(given.log_probs, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("average", ["probabilities", "log_probabilities"])
def test_the_command_scores_with_several_runs(
    workdirs, runs, images, tmp_path, capsysbinary, average
):
    file = str(tmp_path / "photo.png")
    Image.fromarray(images[0]).save(file)
    both = [argument for directory in workdirs for argument in ("--workdir", str(directory))]
    how = ["--compilation_cache", "", "--average", average, "--json", "--caption", "a b c"]
    score.main([*both, *how, file])
    found = json.loads(capsysbinary.readouterr().out)
    expected = capjax.ensemble(runs, average).score(file, "a b c")
    np.testing.assert_allclose(found["log_probs"], expected.log_probs, rtol=1e-5)
    with pytest.raises(SystemExit):
        score.main([*both[:2], *how, file])
    assert b"--average is of an ensemble" in capsysbinary.readouterr().err


def test_what_can_not_be_one_is_named(runs):
    assert repr(capjax.ensemble(runs)).startswith("<Run of 2: <Run of patch and transformer")
    with pytest.raises(EnsembleError, match="one run or more"):
        capjax.ensemble([])
    other = dataclasses.replace(runs[1], tokenizer=train_word_tokenizer(["x y"]))
    with pytest.raises(EnsembleError, match=r"run 2 .* another vocabulary \(6 tokens, and the"):
        capjax.ensemble([runs[0], other])


@pytest.mark.slow(reason="compiles two encoders more")
def test_members_read_images_each_in_its_way(runs, images):
    """One of them takes larger images, and so other parameters of positions."""
    config = runs[0].config.copy_and_resolve_references()
    config.dataset.image_size = 32
    model = build.captioner(config, runs[0].tokenizer)
    fields = {"config": config, "model": model, "variables": fresh(config, runs[0].tokenizer)}
    other = dataclasses.replace(runs[0], **fields, _ready={})
    both = capjax.ensemble([runs[1], other])
    (scored,) = both.score(images[:1], ["a b c"])
    alone = [run.score(images[:1], ["a b c"])[0].log_probs for run in (runs[1], other)]
    np.testing.assert_allclose(scored.log_probs, np.logaddexp(*alone) - np.log(2), rtol=1e-3)
    with pytest.raises(AttentionError, match="look at 4 and 16 positions"):
        both.caption(images[:1], attention=True)
