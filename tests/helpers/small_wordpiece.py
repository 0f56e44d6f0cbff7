"""The files of a small WordPiece tokenizer as BERT's, of lower case."""

import json

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghiklmnoprstuw"
WORDS = ("a", "dog", "the", "two", "man", "##s", "##ing", "run", "on", ",", ".", "'", "naive")
VOCABULARY = tuple(dict.fromkeys((*SPECIAL, *WORDS, *LETTERS, *(f"##{x}" for x in LETTERS))))


def write_wordpiece(folder, **about):
    """Writes vocab.txt and tokenizer_config.json; the end has the id 3."""
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **about}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
