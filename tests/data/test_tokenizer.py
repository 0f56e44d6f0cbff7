import itertools
import json
import string

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from capjax.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train_word_tokenizer
from tests.helpers.effort import examples

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

CAPTIONS = [
    "A black dog's T-shirt, by the sea .",
    "Un café à la mer !",
    "a DOG runs; a dog sleeps",
    "İstanbul 5½ 你好 हिन्दी",
]
WORDS = train_word_tokenizer(CAPTIONS)


def gpt2_like() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    return Tokenizer(backend)


def test_special_tokens_come_first():
    ids = (WORDS.pad_id, WORDS.bos_id, WORDS.eos_id, WORDS.unk_id)
    assert ids == (0, 1, 2, 3)
    assert [WORDS.word(i) for i in ids] == list(SPECIAL_TOKENS)
    assert WORDS.banned_ids == (0, 1, 3)
    assert WORDS.decode(range(4, WORDS.vocab_size)).count(" ") == WORDS.vocab_size - 5


def test_splits_as_the_tutorials_do():
    assert WORDS.split(CAPTIONS[0]) == ["a", "black", "dogs", "tshirt", "by", "the", "sea"]
    assert WORDS.split("a dog\u2764\ufe0f.") == ["a", "dog"]
    assert WORDS.encode("a zebra") == [WORDS.encode("a")[0], WORDS.unk_id]
    assert WORDS.encode("") == WORDS.encode(" .,! ") == WORDS.encode("❤️ ́") == []


def test_vocabulary_follows_count_then_alphabet():
    tokenizer = train_word_tokenizer(["b a c", "c b a", "d c"])
    assert [tokenizer.word(i) for i in range(4, 8)] == ["c", "a", "b", "d"]
    top = train_word_tokenizer(["b a c", "c b a", "d c"], min_count=2, max_words=2)
    assert [top.word(i) for i in range(4, top.vocab_size)] == ["c", "a"]
    assert train_word_tokenizer(["x y y"], min_count=2).vocab_size == 5


def test_alphabetic_only_drops_short_and_mixed_words():
    tokenizer = train_word_tokenizer(["a dog and 2 cats4you on é été"], alphabetic_only=True)
    assert tokenizer.split("a dog and 2 cats4you on é été") == ["dog", "and", "on", "été"]


@pytest.mark.parametrize("wrong", [{"min_count": 0}, {"max_words": -1}, {"min_count": 99}])
def test_wrong_limits_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at least [01]|99 times"):
        train_word_tokenizer(CAPTIONS, **wrong)


@given(st.data())
def test_decoded_ids_encode_to_themselves(data):
    ids = data.draw(st.lists(st.integers(4, WORDS.vocab_size - 1)))
    assert WORDS.encode(WORDS.decode(ids)) == ids


@given(
    st.text()
    | st.lists(st.sampled_from([*SPECIAL_TOKENS, "\uff1ceos\uff1e", "&lt;bos>", "\u200d"]))
)
@settings(max_examples=examples(300))
def test_no_text_forges_a_special_token(text):
    text = text if isinstance(text, str) else " ".join(text)
    assert not {0, 1, 2} & set(WORDS.encode(text))
    learned = train_word_tokenizer([text, "x"])
    assert not {0, 1, 2, 3} & set(learned.encode(text))
    assert learned.encode(learned.decode(learned.encode(text))) == learned.encode(text)


def test_splitting_is_idempotent_and_ignores_the_unicode_form():
    # Not Python's unicodedata: its Unicode version may be another.
    decompose = tokenizers.normalizers.NFD().normalize_str
    # The blocks that have anything but ideographs, syllables and private use.
    blocks = (0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x12000), (0x1D000, 0x1FB00)
    for point in itertools.chain(*itertools.starmap(range, blocks), range(0xE0000, 0xE0200)):
        text = f"x{chr(point)}\u0301 {chr(point)} y"
        words = WORDS.split(text)
        assert WORDS.split(" ".join(words)) == words, hex(point)
        assert WORDS.split(decompose(text)) == words, hex(point)
        assert not set("".join(words)) & set(string.punctuation + string.whitespace), hex(point)


def test_composed_and_decomposed_letters_are_one_word():
    assert WORDS.encode("CAFÉ") == WORDS.encode("cafe\u0301") != [WORDS.unk_id]
    assert WORDS.encode("İstanbul") == WORDS.encode("I\u0307STANBUL") != [WORDS.unk_id]


def test_save_and_load(tmp_path):
    path = tmp_path / "new" / "tokenizer.json"
    WORDS.save(path)
    again = Tokenizer.load(path)
    assert again.encode_batch(CAPTIONS) == [WORDS.encode(c) for c in CAPTIONS]
    assert again.fingerprint == WORDS.fingerprint == train_word_tokenizer(CAPTIONS).fingerprint
    assert train_word_tokenizer(CAPTIONS[1:]).fingerprint != WORDS.fingerprint
    first = path.read_bytes()
    train_word_tokenizer(CAPTIONS[::-1]).save(path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]


def test_loading_says_what_is_wrong(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.load(path)
    WORDS.save(path)
    whole = path.read_text()
    path.write_text(whole[:200])
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a readable"):
        Tokenizer.load(path)
    content = json.loads(whole)
    del content["model"]["vocab"]["<eos>"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*special tokens"):
        Tokenizer.load(path)


def test_decode_stops_at_eos_and_skips_specials():
    a, dog = WORDS.encode("a dog")
    assert WORDS.decode([1, a, 0, 3, dog, 2, a]) == "a dog"
    with pytest.raises(ValueError, match=str(WORDS.vocab_size)):
        WORDS.decode([WORDS.vocab_size])
    with pytest.raises(ValueError, match="-1"):
        WORDS.word(-1)


def test_one_id_in_every_role():
    tokenizer = gpt2_like()
    end = tokenizer.eos_id
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id) == (end, end, end)
    assert tokenizer.banned_ids == ()
    text = "a <|endoftext|> é, longer than three tokens"
    ids = tokenizer.encode(text)
    assert end not in ids
    assert tokenizer.decode([*ids, end, end]) == text
    assert tokenizer.word(end) == "<|endoftext|>"
