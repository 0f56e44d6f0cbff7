"""The tokenizer of a captioner's folder: GPT-2's byte-level BPE (Radford et al. 2019, section 2.2).

Or one that has the four special tokens of `capjax.data.tokenizer`, which a captioner trained from
scratch has.
"""

import os
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from capjax.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from capjax.data.tokenizer_file import raised, read_backend
from capjax.files.small import MOST_TOKENIZER, check_small
from capjax.pretrained.checkpoint_folders import CONFIGS, folder_and_file, read_json
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.weights import blamed

END_OF_TEXT = "<|endoftext|>"
FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json")


def tokenizer_of(source: str | os.PathLike) -> Tokenizer:
    """Reads the tokenizer of a checkpoint: a folder, a file in it, or a name on huggingface.co.

    Raises:
      WeightsError: there is no such checkpoint; or as `read_tokenizer`.
    """
    folder, _ = folder_and_file(source, weights=False, files=(*CONFIGS, *FILES))
    return read_tokenizer(folder)


def read_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """Reads a folder's tokenizer: tokenizer.json, else vocab.json with merges.txt.

    Of GPT-2's, "<|endoftext|>" is start, end and pad at once. Spaces count: " a" and "a" are two
    tokens. A space is put before the first word where tokenizer_config.json says add_prefix_space.

    Raises:
      WeightsError: there are no such files, or they are damaged or another kind of tokenizer.
    """
    whole, vocabulary, merges, about = (os.path.join(folder, name) for name in FILES)
    config = read_json(about) if os.path.isfile(about) else {}
    with blamed(folder, "its tokenizer is damaged"):
        if os.path.isfile(whole):
            backend = read_backend(whole)
        elif os.path.isfile(vocabulary) and os.path.isfile(merges):
            for file in (vocabulary, merges):
                check_small(file, MOST_TOKENIZER)
            with raised():
                backend = tokenizers.Tokenizer(models.BPE.from_file(vocabulary, merges))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            if backend.token_to_id(END_OF_TEXT) is not None:
                backend.add_special_tokens([END_OF_TEXT])
        else:
            raise WeightsError(
                f"{folder}: has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt"
            )
        if all(backend.token_to_id(token) is not None for token in SPECIAL_TOKENS):
            return Tokenizer(backend)
        if not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
            raise WeightsError(f"{whole}: is no byte-level tokenizer, as GPT-2's is")
        if "add_prefix_space" in config:
            backend.pre_tokenizer.add_prefix_space = bool(config["add_prefix_space"])
        if backend.token_to_id(END_OF_TEXT) is None:
            raise WeightsError(f"{folder}: the tokenizer does not know {END_OF_TEXT}, as GPT-2's")
        return Tokenizer(backend)


def write_tokenizer(
    tokenizer: Tokenizer, folder: str | os.PathLike, max_length: int
) -> dict[str, dict[str, Any]]:
    """Writes the tokenizer's files, which `read_tokenizer` and transformers' AutoTokenizer read.

    These are tokenizer.json and, for one of GPT-2's kind, vocab.json and merges.txt.

    Args:
      tokenizer: any.
      folder: is there.
      max_length: the longest text in tokens.

    Returns:
      The contents of the folder's other files, by name.
    """
    whole = os.path.join(folder, FILES[0])
    tokenizer.save(whole)
    backend = tokenizers.Tokenizer.from_file(whole)
    roles = ("bos", "eos", "pad", "unk")
    special = {f"{role}_token": tokenizer.word(getattr(tokenizer, f"{role}_id")) for role in roles}
    about: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        # A special token written out in a caption is text like any other.
        "split_special_tokens": True,
    }
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        backend.model.save(os.fspath(folder))
        about["tokenizer_class"] = "GPT2Tokenizer"
        about["add_prefix_space"] = backend.pre_tokenizer.add_prefix_space
    return {"tokenizer_config.json": about, "special_tokens_map.json": special}
