"""GPT-2's tokenizer files give transformers' ids and the text back."""

import json

import pytest
import tokenizers

from capjax.data.tokenizer import train_word_tokenizer
from capjax.data.tokenizer_kinds import train
from capjax.pretrained.captioners.gpt2_tokenizer import read_tokenizer, write_tokenizer
from capjax.pretrained.errors import WeightsError
from tests.helpers.effort import examples
from tests.helpers.references import need_transformers
from tests.helpers.small_bpe import END_OF_TEXT, TEXTS, write_bpe

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

ODD = [*TEXTS, "  two  spaces ", "UPPER lower", "👨‍👩‍👧 família", "don't\n\tstop", "", "日本語"]


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    write_bpe(folder)
    return folder


def test_one_token_starts_ends_and_pads(folder):
    tokenizer = read_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (0, 0, 0, 0)
    assert tokenizer.vocab_size == 280
    assert tokenizer.banned_ids == ()
    assert tokenizer.word(0) == END_OF_TEXT


@pytest.fixture(params=["vocab.json", "tokenizer.json"], name="written")
def make_written(request, tmp_path):
    """A folder with the one kind of files, or the other, and transformers' tokenizer."""
    transformers = need_transformers()
    write_bpe(tmp_path)
    if request.param == "tokenizer.json":
        transformers.GPT2Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
        (tmp_path / "vocab.json").unlink(missing_ok=True)
        (tmp_path / "merges.txt").unlink(missing_ok=True)
        assert (tmp_path / "tokenizer.json").is_file()
    return tmp_path, transformers.GPT2Tokenizer


@pytest.mark.parametrize("prefix", [None, False, True])
def test_ids_are_transformers(written, prefix):
    folder, kind = written
    if prefix is not None:
        about = folder / "tokenizer_config.json"
        config = json.loads(about.read_text()) if about.is_file() else {}
        about.write_text(json.dumps({**config, "add_prefix_space": prefix}))
    ours, theirs = read_tokenizer(folder), kind.from_pretrained(folder)
    assert ours.vocab_size == len(theirs)
    for text in ODD:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids, text
        space = " " if prefix and text[:1].strip() else ""
        assert ours.decode([*ids, 0]) == space + text
    assert (ours.encode("dog") == ours.encode(" dog")) == bool(prefix)
    assert ours.encode("The dog") != ours.encode("the dog")


@given(st.text() | st.lists(st.sampled_from([" ", "a", "🐕", "\u200d", END_OF_TEXT])))
@settings(max_examples=examples(100), deadline=None)
def test_any_text_comes_back_and_forges_no_end(folder, text):
    tokenizer = read_tokenizer(folder)
    text = text if isinstance(text, str) else "".join(text)
    ids = tokenizer.encode(text)
    assert 0 not in ids
    assert tokenizer.decode([*ids, 0, 5]) == text


def refused(folder):
    with pytest.raises(WeightsError) as caught:
        read_tokenizer(folder)
    return str(caught.value)


def test_one_with_the_four_special_tokens_is_taken(tmp_path):
    words = train_word_tokenizer(["a cat"])
    words.save(tmp_path / "tokenizer.json")
    found = read_tokenizer(tmp_path)
    assert (found.fingerprint, found.banned_ids) == (words.fingerprint, (0, 1, 3))


def test_other_files_are_refused(tmp_path):
    assert "has no tokenizer: neither tokenizer.json nor vocab.json and" in refused(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    assert "its tokenizer is damaged (" in refused(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    assert "does not know <|endoftext|>" in refused(tmp_path)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"<|endoftext|>": 0}, merges=[]))
    backend.save(str(tmp_path / "tokenizer.json"))
    assert "tokenizer.json: is no byte-level tokenizer" in refused(tmp_path)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    assert "does not know <|endoftext|>" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["words", "characters", "bpe"])
def test_every_kind_of_our_own_is_written_and_read(kind, tmp_path):
    tokenizer = train(["a dog runs", "一个盒子"], kind=kind, max_words=20)
    about = write_tokenizer(tokenizer, tmp_path, 9)["tokenizer_config.json"]
    assert about["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert read_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
