"""BERT's tokenizer (Devlin et al. 2019): pieces of words, "##ing" inside of one, lower case or not.

A folder has it as tokenizer.json, or as vocab.txt with tokenizer_config.json.
"""

import os
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from capjax.data.tokenizer import Tokenizer
from capjax.data.tokenizer_file import read_backend
from capjax.files.small import MOST_TOKENIZER, check_small
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.weights import blamed

FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
_UNKNOWN = "[UNK]"
_SPECIAL = ("[PAD]", _UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
# By their names in tokenizer_config.json: a normalizer's fields and their defaults.
_NORMALIZER = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
# Rows of an embedding without a word that a model may have, to round their number up or for tokens
# of its own; a larger difference means another tokenizer.
_MOST_WORDLESS = 1024


def read_wordpiece(folder: str | os.PathLike, rows: int, own: tuple[str, ...] = ()) -> Tokenizer:
    """Reads the tokenizer of a folder.

    Args:
      folder: of the checkpoint.
      rows: of the model's embedding; those without a word become special tokens.
      own: names of the first of these, such as "[DEC]"; the others are "[unused NUMBER]".

    Raises:
      WeightsError: there is none, or it is damaged, of another kind or too large for the rows.
    """
    whole, words, about = (os.path.join(folder, name) for name in FILES)
    config = read_json(about) if os.path.isfile(about) else {}
    fields = {ours: config.get(name, usual) for name, (ours, usual) in _NORMALIZER.items()}
    with blamed(folder, "its tokenizer is damaged"):
        if os.path.isfile(whole):
            backend = read_backend(whole)
            # As transformers does, which reads little but the words from the file.
            if config.keys() & _NORMALIZER.keys():
                backend.normalizer = normalizers.BertNormalizer(**fields)
        elif os.path.isfile(words):
            check_small(words, MOST_TOKENIZER)
            lines = Path(words).read_text(encoding="utf-8").removesuffix("\n").split("\n")
            model = models.WordPiece({w: i for i, w in enumerate(lines)}, unk_token=_UNKNOWN)
            backend = tokenizers.Tokenizer(model)
            backend.normalizer = normalizers.BertNormalizer(**fields)
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            backend.decoder = decoders.WordPiece(prefix="##")
            known = [token for token in _SPECIAL if backend.token_to_id(token) is not None]
            backend.add_special_tokens(known)
        else:
            raise WeightsError(f"{folder}: has no tokenizer: neither tokenizer.json nor vocab.txt")
        if not isinstance(backend.model, models.WordPiece):
            raise WeightsError(f"{whole}: is no WordPiece tokenizer, as BERT's is")
        _fill(backend, folder, rows, own)
        return Tokenizer(backend)


def _fill(
    backend: tokenizers.Tokenizer, folder: str | os.PathLike, rows: int, own: tuple[str, ...]
) -> None:
    size = backend.get_vocab_size()
    if not size <= rows <= size + _MOST_WORDLESS:
        raise WeightsError(
            f"{folder}: its tokenizer has {size} tokens and its model vocab_size={rows}, which "
            f"must be as many, or up to {_MOST_WORDLESS} more"
        )
    named = [name for name in own if backend.token_to_id(name) is None]
    named += [f"[unused {token}]" for token in range(size + len(named), rows)]
    backend.add_special_tokens(named[: rows - size])


def write_wordpiece(
    tokenizer: Tokenizer, folder: str | os.PathLike, max_length: int
) -> dict[str, dict[str, Any]]:
    """Writes tokenizer.json, which `read_wordpiece` and transformers' BertTokenizer read.

    Args:
      tokenizer: from `read_wordpiece`.
      folder: is there.
      max_length: the longest text in tokens.

    Returns:
      The contents of the folder's other files, by name.
    """
    whole = os.path.join(folder, FILES[0])
    tokenizer.save(whole)
    normalizer = tokenizers.Tokenizer.from_file(whole).normalizer
    roles = {f"{token.strip('[]').lower()}_token": token for token in _SPECIAL}
    about = {name: getattr(normalizer, ours) for name, (ours, _) in _NORMALIZER.items()}
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            **roles,
            **about,
            "model_max_length": max_length,
        }
    }
