"""Reads any captioner of transformers whole."""

import os
from collections.abc import Mapping
from typing import Any

from capjax.pretrained.captioners import generation_file
from capjax.pretrained.captioners.captioner import Family, Fields, PretrainedCaptioner, family_of
from capjax.pretrained.captioners.gpt2_tokenizer import FILES as BPE_FILES
from capjax.pretrained.captioners.wordpiece import FILES as WORDPIECE_FILES
from capjax.pretrained.checkpoint_folders import (
    CONFIGS,
    folder_and_file,
    read_json,
    read_weights,
    weights_file,
)
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.vit import huggingface
from capjax.pretrained.vit.layouts import own_tensors, to_variables
from capjax.pretrained.vit.read import vit_fields, vit_resize
from capjax.pretrained.weights import blamed

# The files of all families: that of a name on huggingface.co is known after its config.json.
FILES = (*CONFIGS, generation_file.FILE, *dict.fromkeys((*BPE_FILES, *WORDPIECE_FILES)))


def read_captioner(source: str | os.PathLike, *, weights: bool = True) -> PretrainedCaptioner:
    """Reads a captioner of transformers.

    Args:
      source: a folder, or the name of one on huggingface.co, "organisation/name".
      weights: whether they are read, too; otherwise `variables` is empty.

    Raises:
      WeightsError: there is no such source, or it is no captioner, or one that would caption
        otherwise in capjax; names the file and the field or the tensor.
    """
    folder, _ = folder_and_file(source, weights=weights, files=FILES)
    at = os.path.join(folder, "config.json")
    config = read_json(at)
    family, fields = _family_and_fields(config, at)
    tokenizer = family.read_tokenizer(folder, config, fields)
    if tokenizer.vocab_size != fields.decoder["vocab_size"]:
        raise WeightsError(
            f"{at}: the decoder has vocab_size={fields.decoder['vocab_size']}, and the tokenizer "
            f"beside it {tokenizer.vocab_size} tokens"
        )
    generation = family.read_generation(folder, config, tokenizer)
    longest = fields.decoder["max_length"] + 1
    if generation.max_length > longest:
        raise WeightsError(
            f"{folder}: captions of up to {generation.max_length} tokens are asked for, and the "
            f"decoder's {longest - 1} positions allow {longest}"
        )
    variables = read_variables(folder) if weights else {}
    return PretrainedCaptioner(
        family,
        vit_fields(folder),
        fields,
        variables,
        vit_resize(folder),
        tokenizer,
        generation,
    )


def _family_and_fields(config: Mapping[str, Any], path: str) -> tuple[Family, Fields]:
    with blamed(path, "its fields make no captioner"):
        family = family_of(config, path)
        return family, family.read_fields(config, path)


def read_variables(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads the variables of the captioner in a folder, as `PretrainedCaptioner` has them.

    Raises:
      WeightsError: as `read_captioner`.
    """
    at, file = os.path.join(folder, "config.json"), weights_file(folder)
    config = read_json(at)
    family, fields = _family_and_fields(config, at)
    _, layout = huggingface.read_config(config, at)
    encoder, tensors = vit_fields(folder), read_weights(file)
    start = family.encoder_prefix
    own = {name.removeprefix(start): a for name, a in tensors.items() if name.startswith(start)}
    rest = {name: array for name, array in tensors.items() if not name.startswith(start)}
    variables = to_variables(own_tensors(own, layout, file), layout, encoder, file)
    params = family.to_params(rest, fields, encoder["width"], file)
    return {"params": {"encoder": variables["params"], **params}}
