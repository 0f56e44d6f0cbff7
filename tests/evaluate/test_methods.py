"""Decoding settings in words: their tokens, the names of result files, and what is refused."""

import pytest

from capjax.data.tokenizer import train_word_tokenizer
from capjax.decode.processors import Processors
from capjax.evaluate.control import Control, SettingError
from capjax.evaluate.methods import BeamSearch, Sampling, settings_of
from capjax.pretrained.captioners.gpt2_tokenizer import read_tokenizer
from tests.helpers.small_bpe import write_bpe

TOKENIZER = train_word_tokenizer(["a dog runs", "a red ball in front of a dog", "the cat"])
DOG, BALL = (TOKENIZER.encode(word)[0] for word in ("dog", "ball"))


def beam(**settings):
    return BeamSearch(4, 0.7, True, 12, **settings)


def test_words_are_tokens():
    assert Control().processors(TOKENIZER) == Processors()
    control = Control(bad_words=("Dog!", "red ball"), forced_last="ball", bad_endings=("<4>",))
    assert control.processors(TOKENIZER) == Processors(
        bad_words_ids=((DOG,), tuple(TOKENIZER.encode("red ball"))),
        forced_eos_token_id=BALL,
        bad_endings=(4,),
    )
    assert Control(prompt="a red").prompt_ids(TOKENIZER) == tuple(TOKENIZER.encode("a red"))


def test_a_word_of_pieces_is_meant_at_the_beginning_and_after_a_space(tmp_path):
    write_bpe(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    first, inside = tokenizer.encode("the"), tokenizer.encode("a the")[len(tokenizer.encode("a")) :]
    assert first != inside
    found = Control(bad_words=("the",)).processors(tokenizer).bad_words_ids
    assert found == (tuple(first), tuple(inside))


def test_labels_have_what_is_not_usual():
    assert beam().label == "beam4-lp0.7-max12-earlytrue"
    assert Sampling(0.5, 12, 3, 5).label == "temperature0.5-topk5-max12-seed3"
    settings = {"num_beam_groups": 2, "diversity_penalty": 0.5, "num_captions": 3}
    control = Control(prompt="a photo", no_repeat_ngram_size=2, bad_words=("dog", "red ball"))
    assert beam(**settings, length_normalization="gnmt", control=control).label == (
        "beam4-lp0.7-max12-earlytrue-best3-gnmt-groups2-diversity0.5"
        "-prompta_photo-ngram2-baddog+red_ball"
    )
    # What a file's name can't hold is a hash, and differs where the settings do.
    odd = [beam(must_include=words).label for words in (("a/b",), ("a", "b"), ("x" * 30,))]
    assert len({*odd}) == 3
    assert all("/" not in label and len(label) < 60 for label in odd)
    assert settings_of(beam(control=control))["control"]["prompt"] == "a photo"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (beam(num_beam_groups=3), "num_beam_groups=3 must divide num_beams=4"),
        (beam(num_beam_groups=2), "diversity_penalty=0 must be above 0"),
        (beam(diversity_penalty=0.5), "diversity_penalty=0.5 needs num_beam_groups above 1"),
        (beam(num_captions=5), "num_captions=5 must be at most num_beams=4"),
        (beam(must_include=("zebra",)), "must_include has 'zebra', which the vocabulary"),
        (beam(must_include=("a red ball in front of the cat a dog runs a",)), "12 tokens, (4"),
        (beam(must_include=("<3>",)), "must_include has '<3>', which the model never says"),
        (
            beam(must_include=("cat", "red ball"), control=Control(bad_words=("ball",))),
            "must_include has 'red ball': which has",
        ),
        (beam(control=Control(prompt="a " * 11)), "has 11 tokens, and max_length=12 must leave"),
        (beam(control=Control(min_length=13)), "min_length=13 is above max_length=12"),
        (beam(control=Control(min_new_tokens=12)), "min_new_tokens=12 is more than the 11"),
        (beam(control=Control(suppress=("red ball",))), "suppress has 'red ball', of 2 tokens"),
        (beam(control=Control(bad_words=("...",))), "bad_words has '...', which has no word"),
        (beam(control=Control(bad_words=("<99>",))), "bad_words has '<99>': there are 14 tokens"),
        (beam(control=Control(forced_first="<3>")), "forced_first='<3>' is a token that the model"),
        (
            beam(control=Control(prompt="the", allowed=("a dog",))),
            "allowed has no caption that begins",
        ),
        (Sampling(-1.0, 12), "temperature must be 0"),
        (Sampling(1.0, 3, control=Control(allowed=("a dog",))), "allowed has a caption of 3"),
    ],
)
def test_what_is_impossible_is_named(method, message):
    with pytest.raises(SettingError) as caught:  # noqa: PT012
        method.check()
        method.check_words(TOKENIZER)
    assert message in str(caught.value)
