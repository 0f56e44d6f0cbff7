"""`capjax.load(...)` in Python: one image or many, and decoding settings."""

import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.config.errors import ConfigError
from capjax.data.images import ImageError
from tests.helpers.effort import sweep


@pytest.fixture(scope="module", name="path")
def make_path(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("image") / "0.png"
    Image.fromarray(pixels).save(path)
    return path


def test_one_image_has_one_caption_and_a_list_a_list(run, path):
    (expected,) = run.caption([path])
    with Image.open(path) as image:
        for one in (str(path), path, path.read_bytes(), image, np.asarray(image)):
            assert run.caption(one) == expected
        assert run.caption(np.asarray(image)[None]) == [expected]
    assert run.score(path, "a b") == run.score([path], ["a b"])[0]
    assert run.score(path, ["a b", "c"]) == run.score([path], [["a b", "c"]])[0]
    with pytest.raises(ImageError, match=r"uint8 \[4, 5, 4\] is not taken"):
        run.caption(np.zeros((4, 5, 4), np.uint8))
    for wrong in (None, 3, {path}, {"image": path}, iter([path])):
        with pytest.raises(ImageError, match=rf"type {type(wrong).__name__}: give a path, enc"):
            run.caption(wrong)
    with pytest.raises(ImageError, match=r"None"):
        run.caption([None])


def test_a_notebook_shows_captions(run, path):
    shown = run.show(path, num_beams=1, max_length=4)
    (caption,) = shown.captions
    assert caption.attention is not None
    assert f"<p>{caption.text}</p>" in shown._repr_html_()


def test_decoding_settings_are_those_of_the_command_line(run, path):
    greedy = run.caption(path, method=capjax.BeamSearch(1, 1.0, False, 6))
    for name in ("num_beams", "beam_size"):
        assert run.caption(path, **{name: 1}, length_penalty=1.0, max_length=6) == greedy
    drawn = run.caption(path, method=capjax.Sampling(2.0, 6, seed=3))
    assert run.caption(path, temperature=2.0, seed=3, max_length=6) == drawn


def test_an_image_has_several_captions_with_the_best_first(run, path):
    best = run.caption(path, num_beams=4)
    several = run.caption(path, num_beams=4, num_captions=3)
    assert (several.text, several.alternatives[2:]) == (best.text, ())
    every = [*several]
    assert (every[0] is several, len(several), len(best)) == (True, 3, 1)
    assert len({caption.text for caption in every}) == 3
    assert [c.score for c in every] == sorted((c.score for c in every), reverse=True)
    samples = run.caption(path, temperature=2.0, num_captions=3)
    assert samples.log_prob >= max(c.log_prob for c in samples.alternatives)
    for caption in (*every, samples):
        assert len(caption.log_probs) == len(caption.words) + caption.finished
        np.testing.assert_allclose(sum(caption.log_probs), caption.log_prob, rtol=1e-5)


HOW = [{"num_beams": 3}, {"temperature": 1.5}]


@pytest.mark.parametrize("how", sweep(HOW, HOW[:1]))
def test_words_are_asked_for_and_kept_out(run, path, how):
    plain = run.caption(path, max_length=6, **how)
    control = {"prompt": "a b", "bad_words": [plain.words[0]], "no_repeat_ngram_size": 1}
    caption = run.caption(path, max_length=6, min_new_tokens=3, **how, **control)
    assert caption.text == " ".join(["a b", *caption.words])
    assert not {plain.words[0], "a", "b"} & {*caption.words}
    assert len({*caption.words}) == len(caption.words) == 3
    # What was fed does not change what a word's probability is.
    scored = run.score(path, caption.text).log_probs[2 : 2 + len(caption.log_probs)]
    np.testing.assert_allclose(caption.log_probs, scored, rtol=1e-3)


def test_words_occur_where_they_must(run, path):
    plain = run.caption(path)
    word = next(word for word in "cdefgh" if word not in plain.words)
    caption = run.caption(path, must_include=[word], num_beams=4)
    assert word in caption.words
    assert caption.met
    # The only captions that there may be lack the word.
    caption = run.caption(path, must_include=[word], num_beams=4, allowed=["a b", "b"])
    assert caption.text in ("a b", "b")
    assert not caption.met


def test_groups_of_beams_differ(run, path):
    groups = {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 50.0}
    found = run.caption(path, num_captions=4, **groups)
    assert len({caption.words[0] for caption in (found, *found.alternatives)}) == 4


CONSENSUS = [{"num_samples": 8}, {"candidates": "beam", "num_beams": 4}]


@pytest.mark.parametrize("how", sweep(CONSENSUS, CONSENSUS[:1]))
def test_consensus_is_the_candidate_that_agrees_with_the_others(run, path, how):
    """Beside the same candidates compared in words."""
    found = run.caption(path, reward="bleu4", max_length=6, num_captions=2, **how)
    assert found.score >= max(other.score for other in found.alternatives)
    plain = {"temperature": 1.0} if "num_samples" in how else {"num_beams": 4}
    count = how.get("num_samples") or how["num_beams"]
    first = run.caption(path, max_length=6, num_captions=count, **plain)
    every = [first, *first.alternatives]
    assert {found.text, *map(str, found.alternatives)} <= {*map(str, every)}


def test_consensus_by_a_sum_of_rewards(run, path):
    """Twice a reward has twice its scores; the sum is in the method's name."""
    how = {"num_samples": 8, "max_length": 6}
    once = run.caption(path, reward="bleu4", **how)
    twice = run.caption(path, rewards=["bleu4", "bleu4"], reward_weights=[0.5, 1.5], **how)
    assert twice.text == once.text
    assert twice.score == pytest.approx(2 * once.score)
    method = run.method(rewards=("bleu4", "bleu4"), reward_weights=(1.0, 0.5), **how)
    assert method.label.endswith("-consensus-bleu4+0.5bleu4")
    assert run.method(rewards=("bleu4", "bleu4"), **how).reward.weights == (1.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bad_words": ("a zebra",)}, "config.decoding.bad_words has 'zebra', which the vocab"),
        ({"bad_words": "a"}, "config.decoding.bad_words='a' must be a tuple of names"),
        ({"temperature": 1.0, "must_include": ("a",)}, "must_include=.* samples have no beams"),
        ({"num_beams": 4, "num_beam_groups": 3}, "config.decoding.num_beam_groups=3 must divide"),
        ({"min_length": 9, "max_length": 8}, "config.decoding.min_length=9 is above max_length=8"),
        ({"prompt": "a b c d", "max_length": 5}, "config.decoding.prompt='a b c d' has 4 tokens"),
        ({"reward": "cider"}, "decoding.rewards=.'cider',.: there is no reward 'cider'"),
        ({"rewards": ("bleu4",), "reward_weights": (1.0, 2.0)}, "reward_weights=.* as many"),
        ({"num_beam": 3}, "no setting 'num_beam': did you mean num_beams"),
        ({"num_beams": "3"}, "config.decoding.num_beams='3' must be"),
        ({"num_beams": 3, "method": capjax.Sampling(1.0, 6)}, "num_beams, not both"),
    ],
)
def test_wrong_settings_are_named(run, path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run.caption(path, **settings)


def test_a_run_is_shown_in_one_line(run):
    assert repr(run).startswith("<Run of ")
    assert len(repr(run)) < 100
    assert capjax.__version__[0].isdigit()
