"""The words and forms that the default's decoding bans are those that it means."""

from capjax.data.shapes import grammar
from capjax.data.shapes.facts import parse
from capjax.data.shapes.scene import image_id
from configs import shapes_transformer


def test_the_default_bans_lists_of_three_plurals_and_one_word_for_a_size():
    decoding = shapes_transformer.get_config().decoding
    assert {*decoding.suppress} == {"large", *grammar.PLURALS.values()}
    texts = [text for i in range(300) for text in grammar.captions_of(image_id("train", i))]
    banned = set()
    for text in texts:
        words = " ".join(text.lower().replace(",", "").replace(".", "").split())
        found = {phrase for phrase in decoding.bad_words if f" {phrase} " in f" {words} "}
        banned |= found
        if found:
            claims = parse(text)
            # Neither a pair, which names sizes and textures, nor the number of all things.
            assert claims.relation is None, text
            assert claims.total is None, text
            assert len(claims.mentions) == 3, text
    assert banned == {f"{shape} a" for shape in grammar.PLURALS}
    patterns = {noun for nouns in grammar.PATTERN_NOUNS.values() for noun in nouns}
    assert {*decoding.bad_words} - banned == {f"{noun} a" for noun in patterns}
