"""The table of a reward, of the captions of a run's train split."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from capjax.config.checks import check_words
from capjax.config.errors import ConfigError
from capjax.data.sections import open_captions, open_source
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.methods import Consensus, Method
from capjax.files.errors import ReportedError
from capjax.metrics.reward import Reward, needs_corpus
from capjax.run.references import encode_references


def ready(method: Method, config: ConfigDict, tokenizer: Tokenizer) -> Method:
    """The method of a config with the table of its reward, if it has one.

    Raises:
      ConfigError: a word is outside the vocabulary, or the captions of the train split can't be
        read.
    """
    check_words(method, tokenizer)
    if not isinstance(method, Consensus):
        return method
    return dataclasses.replace(method, table=reward_table(method.reward, config, tokenizer))


def reward_table(reward: Reward, config: ConfigDict, tokenizer: Tokenizer) -> Any:
    """Prepares a reward for the train split of a config's dataset; see `Reward.prepare`.

    Raises:
      ConfigError: the captions of the train split can't be read.
    """
    ids = {"eos_id": tokenizer.eos_id, "vocab_size": tokenizer.vocab_size}
    if not needs_corpus(reward):
        return reward.prepare((), **ids)
    try:
        if "name" not in config.dataset:
            raise ConfigError("a published captioner has none")
        table = open_captions(config.dataset, open_source(config.dataset, "train"))
    except ReportedError as error:
        raise ConfigError(
            f"the reward {reward} knows how rare words are by the captions of the train split: "
            f"{error}; config.decoding.rewards=('bleu4',) needs none"
        ) from error
    return reward.prepare(encode_references(table, tokenizer, config.dataset), **ids)
