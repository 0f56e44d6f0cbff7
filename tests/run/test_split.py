"""What a start makes of a split's captions, and keeps for the next one."""

import contextlib

import pytest

from capjax.config.errors import ConfigError
from capjax.data import tokenizer_kinds
from capjax.data.sections import open_captions, train_tokenizer
from capjax.data.tokenizer import Tokenizer
from capjax.parallel import processes
from capjax.run.split import make_split
from configs import base
from tests.helpers.sources import captioned


@pytest.fixture(name="config")
def make_config(tmp_path):
    config = base.get_config()
    config.dataset.cache_dir = str(tmp_path)
    config.tokenizer.min_count = 1
    return config


def start(config, source):
    table = open_captions(config.dataset, source)
    return make_split(config, source, table, train_tokenizer(config, table))


def test_a_second_start_neither_reads_trains_nor_encodes(config, tmp_path, monkeypatch):
    first = start(config, captioned(3, "a dog runs", "a dog"))
    names = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert names == {"captions", "tokenizer", "tokens"}

    def refuse(*_, **__):
        raise AssertionError("made again")

    for owner, name in ((Tokenizer, "encode_batch"), (tokenizer_kinds, "train")):
        monkeypatch.setattr(owner, name, refuse)
    source = captioned(3, "a dog runs", "a dog")
    again = start(config, source)
    assert not source.read
    assert again.table == first.table
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert again.encoded.tokens == first.encoded.tokens
    config.dataset.cache_dir = ""
    with pytest.raises(AssertionError, match="made again"):
        start(config, captioned())


def test_one_process_encodes_before_the_others(config, tmp_path, monkeypatch):
    written = []

    @contextlib.contextmanager
    def primary_first():
        yield
        written.extend(tmp_path.glob("tokens-*"))

    monkeypatch.setattr(processes, "primary_first", primary_first)
    start(config, captioned())
    assert len(written) == 1


def test_a_prompt_without_room_for_a_word_is_said(config):
    config.prompt = "a dog " * config.dataset.max_length
    with pytest.raises(ConfigError, match=r"config\.dataset\.max_length must be at least"):
        start(config, captioned())
