"""Every kind of tokenizer gives back the text it was given, after it is saved and loaded."""

import pytest

from capjax.data.captions import CaptionTable, encode_captions
from capjax.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from capjax.data.tokenizer_kinds import train

CAPTIONS = [
    "A black dog's T-shirt, by the  sea .",
    "一个红色的盒子靠在第3面墙上。",
    "图片12里有一个绿色的盒子。",
    "หมาสีดำวิ่งเล่น",
    " a dog runs \u00b4 to the sea\n",
    "काला कुत्ता <bos>",
]
WORDS = train(CAPTIONS, kind="words")
KINDS = {
    "words": WORDS,
    "characters": train(CAPTIONS, kind="characters"),
    "bpe": train(CAPTIONS, kind="bpe", max_words=90),
}


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back(kind, tmp_path):
    tokenizer = KINDS[kind]
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    for text in (*CAPTIONS, "", " . "):
        ids = loaded.encode(text)
        assert ids == tokenizer.encode(text)
        assert loaded.decode([*ids, loaded.eos_id]) == " ".join(WORDS.split(text))
        assert not {*ids} & {*range(4)}
        assert "".join(map(loaded.word, ids)).replace(" ", "") == "".join(WORDS.split(text))
    assert [loaded.word(i) for i in range(4)] == list(SPECIAL_TOKENS)
    # Pieces keep their words when a run starts from another with other pieces.
    assert len({*map(loaded.word, range(loaded.vocab_size))}) == loaded.vocab_size


def test_text_without_spaces_has_many_tokens():
    lengths = {kind: len(tokenizer.encode(CAPTIONS[1])) for kind, tokenizer in KINDS.items()}
    assert lengths["words"] == 1
    assert lengths["characters"] == 14
    assert 2 < lengths["bpe"] < 14


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_training_depends_on_the_captions_alone(kind):
    sizes = [train(CAPTIONS, kind=kind, max_words=size).vocab_size for size in (20, 40)]
    assert sizes == [24, 44]
    again = train(CAPTIONS[::-1], kind=kind, max_words=40)
    assert again.fingerprint == train(CAPTIONS, kind=kind, max_words=40).fingerprint
    few = train(["ab abc", "ab"], kind=kind, max_words=9, min_count=3)
    assert few.decode(few.encode("ab")) == "ab"
    assert few.unk_id in few.encode("abc")


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_pieces_are_counted(kind):
    tokenizer = train(["a dog", "a cat"], kind=kind, max_words=20)
    table = CaptionTable(("1",), (("a Zog", "a dog"),), "")
    report = encode_captions(table, tokenizer, max_length=9, over_length="cut").report
    assert report.frequent_unknown == (("zog" if kind == "words" else "z", 1),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bpe"}, "kind='bpe' needs max_words"),
        ({"kind": "characters", "alphabetic_only": True}, "alphabetic_only=True is for kind='wo"),
        ({"kind": "characters", "min_count": 99}, "no character of the captions occurs 99 times"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        train(CAPTIONS, **fields)


def test_captions_without_spaces_are_warned_of(caplog):
    train(["一个红色的盒子靠在第3面墙上", "图片里有一个绿色的盒子"])
    assert "the captions are Chinese or Japanese without spaces" in caplog.text
    assert "config.tokenizer.kind" in caplog.text
    caplog.clear()
    train(["一个 红色 的 盒子 靠在 第3 面 墙上", "หมา", "a dog named 狗"])
    train(["一个红色的盒子靠在第3面墙上"], kind="characters")
    train(["Rindfleischetikettierungsüberwachung"])
    assert not caplog.records
