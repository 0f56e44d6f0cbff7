"""The PyTorch Show-Attend-Tell tutorial's checkpoint and word map, as capjax has them.

The tutorial (github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning) publishes whole pickled
modules. `capjax.pretrained.convert_show_attend_tell` makes one safetensors file of them, once; here
that file is read, and nothing in it is executed.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from capjax.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer, word_normalizer
from capjax.files.text import first_few, well_formed
from capjax.models.encoders.resnet import ResNet
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.resnet import from_torchvision
from capjax.pretrained.torch_files import read_tensors
from capjax.pretrained.weights import check_fit, variable_shapes

CONVERTER = "capjax.pretrained.convert_show_attend_tell"

# The encoder is a Sequential of torchvision's network without its pooling and classifier; those
# of its children that have weights.
_CHILDREN = {"0": "conv1", "1": "bn1", **{str(3 + stage): f"layer{stage}" for stage in range(1, 5)}}
# Tensors of the decoder that show all its sizes.
_SIZED = ("embedding.weight", "attention.encoder_att.weight", "decode_step.weight_hh")
# The tutorial's names of special tokens.
_SPECIAL = {"<pad>": PAD, "<start>": BOS, "<end>": EOS, "<unk>": UNK}


def read_tutorial(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of encoder and decoder from a converted checkpoint.

    Returns:
      {"params": ..., "batch_stats": ...} of `capjax.models.encoders.resnet.ResNet(depth=101)`, and
      {"params": ...} as `decoder_variables` gives them; NumPy, float32.

    Raises:
      WeightsError: it is no safetensors file, or does not hold the tutorial's modules.
    """
    path = os.fspath(path)
    if not path.endswith(".safetensors"):
        raise WeightsError(
            f"{path}: is no .safetensors file; the tutorial's .pth.tar is converted first, by "
            f"python -m {CONVERTER}"
        )
    parts: dict[str, dict[str, np.ndarray]] = {"encoder": {}, "decoder": {}}
    for name, array in read_tensors(path).items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise WeightsError(f"{path}: has {name}, and should have encoder.* and decoder.* alone")
        parts[part][rest] = array
    encoder = ResNet(depth=101)
    like = variable_shapes(encoder, 64)
    found = from_torchvision(torchvision_names(parts["encoder"], path), like, path)
    return found, decoder_variables(parts["decoder"], path)


def torchvision_names(tensors: Mapping[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """The encoder's tensors, "resnet.4.0.conv1.weight", by torchvision's "layer1.0.conv1.weight".

    Raises:
      WeightsError: a name that the tutorial's encoder does not have.
    """
    named = {}
    for name, array in tensors.items():
        resnet, _, inner = name.partition(".")
        child, _, rest = inner.partition(".")
        if resnet != "resnet" or child not in _CHILDREN:
            raise WeightsError(
                f"{path}: has encoder.{name}, and the tutorial's encoder has encoder.resnet.N.* "
                f"with N one of {', '.join(_CHILDREN)}"
            )
        named[f"{_CHILDREN[child]}.{rest}"] = array
    return named


def decoder_variables(
    tensors: Mapping[str, np.ndarray], path: str | os.PathLike
) -> dict[str, dict[str, Any]]:
    """The variables of `capjax.models.decoders.bahdanau.BahdanauDecoder`.

    The decoder's fields that make it the tutorial's: cell="lstm", attention="soft",
    attention_activation="relu", initial_state="mean", gate="vector", output="linear"; its widths
    are the tensors'.

    Args:
      tensors: by the names that torch gives them in the tutorial's `DecoderWithAttention`.
      path: of their file, for the message.

    Returns:
      {"params": ...}, NumPy, float32.

    Raises:
      WeightsError: a tensor is missing, misshapen or left over.
    """
    _check_decoder(tensors, os.fspath(path))
    given = {name: np.asarray(array, np.float32) for name, array in tensors.items()}

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": given[f"{name}.weight"].T, "bias": given[f"{name}.bias"]}

    embedding = given["embedding.weight"]
    # The tutorial's cell takes the word's embedding and then the context, as one vector.
    word, context = np.split(given["decode_step.weight_ih"].T, [embedding.shape[1]])
    bias = given["decode_step.bias_ih"] + given["decode_step.bias_hh"]
    params = {
        "tokens": {"embedding": embedding},
        "attend": {
            "memory": dense("attention.encoder_att"),
            "state": dense("attention.decoder_att"),
            # Its bias adds the same to every score, which a softmax does not see.
            "score": given["attention.full_att.weight"][0],
        },
        "initial_hidden": dense("init_h"),
        "initial_cell": dense("init_c"),
        "gate_context": {"dense": dense("f_beta")},
        "recurrence": {
            "word": {"kernel": word, "bias": bias},
            "context": {"kernel": context},
            "hidden": {"kernel": given["decode_step.weight_hh"].T},
        },
        "logits": {"kernel": given["fc.weight"].T},
        "bias": given["fc.bias"],
    }
    return {"params": params}


def _check_decoder(tensors: Mapping[str, np.ndarray], path: str) -> None:
    """Raises WeightsError where the tensors are not those of one decoder."""
    given = {f"decoder.{name}": array for name, array in tensors.items()}
    # Names first: what the shapes should be is seen by three of the tensors.
    names = [f"decoder.{name}" for name in _decoder_shapes((0, 0), (0, 0), (0, 0))]
    check_fit(given, {n: given[n].shape if n in given else () for n in names}, path)
    for name in _SIZED:
        if tensors[name].ndim != 2:
            shape = list(tensors[name].shape)
            raise WeightsError(f"{path}: decoder.{name} is {shape} and should be a matrix")
    shapes = _decoder_shapes(*(tensors[name].shape for name in _SIZED))
    check_fit(given, {f"decoder.{name}": shape for name, shape in shapes.items()}, path)


def _decoder_shapes(
    embedding: tuple[int, int], memory_attention: tuple[int, int], recurrent: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by those of `_SIZED`, which show every size."""
    words, embed = embedding
    attention, memory = memory_attention
    hidden = recurrent[1]
    denses = {
        "attention.encoder_att": (attention, memory),
        "attention.decoder_att": (attention, hidden),
        "attention.full_att": (1, attention),
        "init_h": (hidden, memory),
        "init_c": (hidden, memory),
        "f_beta": (memory, hidden),
        "fc": (words, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (words, embed),
        "decode_step.weight_ih": (4 * hidden, embed + memory),
        "decode_step.weight_hh": (4 * hidden, hidden),
        "decode_step.bias_ih": (4 * hidden,),
        "decode_step.bias_hh": (4 * hidden,),
    }
    for name, shape in denses.items():
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})
    return shapes


def word_map_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a WORDMAP_*.json, with the same ids.

    Text is split as capjax's own word tokenizer does (lower case, punctuation removed without a
    space), which is how the tokens of Karpathy's files were made, that the tutorial counts. Special
    tokens have capjax's names. `unreachable_words` tells of words that no text becomes.

    Raises:
      WeightsError: it is no word map, lacks a special token, or its ids are not 0, 1, 2, ... each
        once; names the file, and the words and ids.
    """
    word_map = _read_word_map(Path(path))
    ids = {_SPECIAL.get(word, word): number for word, number in word_map.items()}
    if len(ids) < len(word_map):
        both = [f"{theirs} and {ours}" for theirs, ours in _SPECIAL.items() if theirs != ours]
        raise WeightsError(f"{path}: has two names of one special token: of {', of '.join(both)}")
    backend = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=UNK))
    backend.normalizer = word_normalizer(alphabetic_only=False)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend)


def unreachable_words(tokenizer: Tokenizer) -> list[str]:
    """Words that can be decoded but that `encode` never gives, by id: it changes them first."""
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    words = {i: tokenizer.word(i) for i in range(tokenizer.vocab_size) if i not in special}
    encoded = tokenizer.encode_batch(list(words.values()))
    return [word for (i, word), ids in zip(words.items(), encoded, strict=True) if ids != [i]]


def _read_word_map(path: Path) -> dict[str, int]:
    """The checked content of a word map.

    Raises:
      WeightsError: see `word_map_tokenizer`.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such word map")
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:  # No JSON, or no UTF-8, or nested too deeply.
        raise WeightsError(f"{path}: is not JSON: {error}") from error
    if not isinstance(pairs, _Pairs):
        raise WeightsError(f"{path}: is no word map, which is one JSON object of word: id")
    odd = [f"{word!r}: {number!r}" for word, number in pairs if type(number) is not int]
    if odd:
        raise WeightsError(f"{path}: ids should be whole numbers, and there is {first_few(odd)}")
    if broken := [repr(word) for word, _ in pairs if well_formed(word) != word]:
        raise WeightsError(f"{path}: has words that are no text: {first_few(broken)}")
    missing = [word for word in _SPECIAL if word not in {word for word, _ in pairs}]
    if missing:
        raise WeightsError(f"{path}: lacks the special tokens {', '.join(missing)}")
    owners: dict[int, str] = {}
    for word, number in pairs:
        if number in owners:
            raise WeightsError(f"{path}: {owners[number]!r} and {word!r} have the same id {number}")
        owners[number] = word
    words = dict(pairs)
    if len(words) < len(pairs):
        counts = Counter(word for word, _ in pairs)
        twice = [repr(word) for word, count in counts.items() if count > 1]
        raise WeightsError(f"{path}: has words with two ids: {first_few(twice)}")
    holes = sorted(set(range(len(pairs))) - owners.keys())
    if holes:
        raise WeightsError(
            f"{path}: the ids of {len(pairs)} words should be 0 to {len(pairs) - 1}, and there is "
            f"none of {first_few(holes)}"
        )
    return words


class _Pairs(list):
    """A JSON object's (name, value) pairs; as a dict, a name seen twice would go unnoticed."""
