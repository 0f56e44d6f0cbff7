"""What a start makes of a split's captions, and keeps for the next one."""

import contextlib
import dataclasses

import pytest

from capjax.config.errors import ConfigError
from capjax.data import tokenizer_kinds
from capjax.data.sections import open_captions, train_tokenizer
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.metrics.reward import corpus_ids
from capjax.parallel import processes
from capjax.run.references import encode_references, prepare
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


def test_a_second_start_does_not_encode_references_again(config, tmp_path, monkeypatch):
    """Whole captions, with an id of its own for each unknown word."""
    table = open_captions(config.dataset, captioned(3, "a zebra runs", "", "a zebra"))
    tokenizer = train_word_tokenizer(["a dog runs"])
    plain = corpus_ids(tokenizer, table.captions)
    assert plain.flat.max() == tokenizer.vocab_size
    assert encode_references(table, tokenizer, config.dataset) == plain
    other = train_word_tokenizer(["a zebra runs"])
    assert encode_references(table, other, config.dataset) == corpus_ids(other, table.captions)
    another = dataclasses.replace(table, captions=(("a",), ("dog",), ()), fingerprint="def")
    assert encode_references(another, tokenizer, config.dataset) == corpus_ids(
        tokenizer, another.captions
    )
    files = list(tmp_path.glob("references-*"))
    assert len(files) == 3
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b"x")
        encode_references(table, tokenizer, config.dataset)
        encode_references(table, other, config.dataset)
        encode_references(another, tokenizer, config.dataset)
        assert file.read_bytes() == content

    def refuse(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(Tokenizer, "encode_batch", refuse)
    assert encode_references(table, tokenizer, config.dataset) == plain


def test_an_unknown_word_has_one_id_however_many_captions_there_are():
    tokenizer = train_word_tokenizer(["a dog"])
    many = [["zebra"], *[["a"]] * 10_000, ["zog", "a zebra"]]
    first, last = corpus_ids(tokenizer, many)[:: len(many) - 1]
    assert first[0].tolist() == [tokenizer.vocab_size, tokenizer.eos_id]
    assert last[0].tolist() == [tokenizer.vocab_size + 1, tokenizer.eos_id]
    assert last[1].tolist() == [*tokenizer.encode("a"), tokenizer.vocab_size, tokenizer.eos_id]


def test_references_have_a_word(config):
    """An objective and its batches have the same ones."""
    split = start(config, captioned(2, "a dog", "...", "dog"))

    class Objective:
        def prepare(self, references, began, *, eos_id, vocab_size):
            assert (eos_id, vocab_size) == (split.tokenizer.eos_id, split.tokenizer.vocab_size)
            return references, began

    splits, (references, began) = prepare(Objective(), {"train": split}, "parameters")
    texts = [[split.tokenizer.decode(ids) for ids in own] for own in references]
    assert texts == [["a dog", "dog"]] * 2
    assert splits["train"].references.captions == references
    assert began == "parameters"


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
