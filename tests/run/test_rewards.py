"""The reward of consensus knows the captions of a run's train split."""

import jax
import numpy as np
import pytest

from capjax.config import build
from capjax.config.errors import ConfigError
from capjax.data.tokenizer import train_word_tokenizer
from capjax.evaluate.methods import Consensus
from capjax.metrics.reward import reference_ids
from capjax.run.rewards import ready
from configs import base
from tests.helpers.small_pictures import COLOURS, write_pictures

# The pictures are not in the vocabulary.
TOKENIZER = train_word_tokenizer(["a red wall", "a green wall", "a blue wall"])


def make_config(folder, reward):
    config = base.get_config()
    config.dataset = base.folder_dataset()
    config.dataset.update(file=f"{folder}/captions.csv", cache_dir="")
    config.decoding.update(method="consensus", num_beams=1, rewards=(reward,), num_samples=4)
    return config


def test_words_are_as_rare_as_in_the_train_split(tmp_path):
    write_pictures(tmp_path)
    config = make_config(tmp_path, "cider_d")
    method = ready(build.decoding_method(config.decoding), config, TOKENIZER)
    assert isinstance(method, Consensus)
    assert method.label.startswith("temperature1-max25-seed0-best4")
    assert method.label.endswith("-consensus-cider_d")
    words = {}
    captions = [(f"a {colour} wall", f"a {colour} picture") for colour in COLOURS] * 4
    ids = {"eos_id": TOKENIZER.eos_id, "vocab_size": TOKENIZER.vocab_size}
    references = [reference_ids(TOKENIZER, each, words) for each in captions]
    expected = method.reward.prepare(references, **ids)
    jax.tree.map(np.testing.assert_array_equal, method.table, expected)


def test_captions_that_are_gone_are_named_unless_none_are_needed(tmp_path):
    config = make_config(tmp_path / "gone", "bleu4")
    assert ready(build.decoding_method(config.decoding), config, TOKENIZER).table is not None
    config.decoding.rewards = ("cider_d",)
    with pytest.raises(ConfigError, match=r"captions of the train split: .*gone/captions\.csv"):
        ready(build.decoding_method(config.decoding), config, TOKENIZER)
