"""GPT-2 in the format of Hugging Face's transformers, for `capjax.models.decoders.gpt2`.

Tensors are named "transformer.h.0.attn.c_attn.weight", or without "transformer.". Nothing in the
files is executed.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.pretrained import tables
from capjax.pretrained.captioners.decoder_fields import (
    check_heads,
    check_sizes,
    decoder_shapes,
    read_activation,
    write_activation,
)
from capjax.pretrained.checkpoint_folders import (
    folder_and_file,
    read_json,
    read_weights,
    weights_file,
)
from capjax.pretrained.errors import WeightsError, refusal
from capjax.pretrained.tables import SAME, Row, dense, norm
from capjax.pretrained.weights import blamed, check_depth, check_fit

# Those of transformers' GPT2Config, since a published config.json may leave them out.
_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
# What `GPT2Decoder` can't be otherwise. reorder_and_upcast_attn gives the same numbers.
_FIXED = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings")
# Whole numbers, and what they are as fields of `GPT2Decoder`.
_SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "max_length",
    "n_embd": "width",
    "n_layer": "num_layers",
    "n_head": "num_heads",
}
_DROPOUTS = {
    "embd_pdrop": "dropout",
    "resid_pdrop": "dropout",
    "attn_pdrop": "attention_dropout",
}
# Causal masks, which early files keep.
_MASKS = re.compile(r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")
_EMBEDDING = "wte.weight"
# transformers' Conv1D has [in, out], as flax.
TABLE = (
    Row(_EMBEDDING, "tokens/embedding"),
    Row("wpe.weight", "positions/embedding"),
    *norm("h.{}.ln_1", "blocks_{}/norms_0"),
    *dense(
        "h.{}.attn.c_attn",
        ("blocks_{}/self_attention/query", "blocks_{}/self_attention/key_value"),
        SAME,
    ),
    *dense("h.{}.attn.c_proj", "blocks_{}/self_attention/out", SAME),
    *norm("h.{}.ln_cross_attn", "blocks_{}/norms_1"),
    *dense("h.{}.crossattention.q_attn", "blocks_{}/cross_attention/query", SAME),
    *dense("h.{}.crossattention.c_attn", "blocks_{}/cross_attention/key_value", SAME),
    *dense("h.{}.crossattention.c_proj", "blocks_{}/cross_attention/out", SAME),
    *norm("h.{}.ln_2", "blocks_{}/norms_2"),
    *dense("h.{}.mlp.c_fc", "blocks_{}/feed_forward/up", SAME),
    *dense("h.{}.mlp.c_proj", "blocks_{}/feed_forward/down", SAME),
    *norm("ln_f", "last_norm"),
)


def read_config(config: Mapping[str, Any], path: str) -> tuple[dict[str, Any], bool]:
    """Reads a GPT-2's config.json, or the decoder's section of one.

    Args:
      config: the section.
      path: of the file, for the message.

    Returns:
      All fields of `GPT2Decoder` that its weights depend on, by which dropout and bans are left to
      the user; and whether it attends to an image.

    Raises:
      WeightsError: it is another model, or a GPT-2 that `GPT2Decoder` can't be.
    """
    if config.get("model_type") != "gpt2":
        raise WeightsError(
            f"{path}: the decoder's model_type is {config.get('model_type')!r}, and must be 'gpt2'"
        )
    found = {**_DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
    for name in _FIXED:
        if found[name] != _DEFAULTS[name]:
            raise refusal(path, name, found[name], json.dumps(_DEFAULTS[name]))
    check_sizes(found, _SIZES, path)
    if found["n_inner"] is None:
        found["n_inner"] = 4 * found["n_embd"]
    check_sizes(found, ("n_inner",), path)
    check_heads(found, "n_head", "n_embd", path)
    if not 0 <= found["layer_norm_epsilon"] < 1:
        raise refusal(path, "layer_norm_epsilon", found["layer_norm_epsilon"], "0 to 1")
    fields = {
        **{ours: found[theirs] for theirs, ours in _SIZES.items()},
        "mlp_ratio": found["n_inner"] / found["n_embd"],
        "activation": read_activation(found, "activation_function", path),
        "epsilon": float(found["layer_norm_epsilon"]),
    }
    return fields, bool(found["add_cross_attention"])


def write_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the decoder's section of a config.json, the inverse of `read_config`.

    Args:
      fields: of a `GPT2Decoder` that attends to an image, as from `read_config`; with "dropout" and
        "attention_dropout", where they are known.

    Raises:
      ExportError: GPT-2 has no such activation.
    """
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "is_decoder": True,
        "add_cross_attention": True,
        "tie_word_embeddings": True,
        **{theirs: fields[ours] for theirs, ours in _SIZES.items()},
        "n_inner": round(fields["mlp_ratio"] * fields["width"]),
        "activation_function": write_activation(fields["activation"]),
        "layer_norm_epsilon": fields["epsilon"],
        **{theirs: fields[ours] for theirs, ours in _DROPOUTS.items() if ours in fields},
    }


def to_params(
    tensors: Mapping[str, np.ndarray], fields: Mapping[str, Any], path: str, *, cross: bool
) -> dict[str, Any]:
    """Turns tensors into the parameters of `GPT2Decoder(**fields)`.

    Args:
      tensors: of one GPT-2 alone, whatever stands before all their names.
      fields: of the module, from `read_config`.
      path: of the file, for the message.
      cross: whether it attends to an image; otherwise what does so is left out.

    Returns:
      NumPy, float32.

    Raises:
      WeightsError: a tensor is missing, misshapen or left over, named as in the file; or the output
        layer is not the embedding.
    """
    start = tables.find_prefix(tensors, _EMBEDDING, "GPT-2", path)
    head = f"{start.removesuffix('transformer.')}lm_head.weight"
    given = {
        name: array
        for name, array in tensors.items()
        if name != head and not _MASKS.fullmatch(name.removeprefix(start))
    }
    check_depth(fields["num_layers"], given, path)
    with blamed(path, "its fields and its tensors make no GPT-2"):
        found = tables.read(TABLE, given, _like(fields, cross), path, start)
    # A file that was not tied would speak otherwise here than in transformers.
    if head in tensors and not np.array_equal(tensors[head], tensors[start + _EMBEDDING]):
        raise WeightsError(
            f"{path}: {head} is not {start}{_EMBEDDING}, and GPT-2's output layer is its embedding"
        )
    return found


def _like(fields: Mapping[str, Any], cross: bool) -> dict[str, Any]:
    """The parameters of `GPT2Decoder(**fields)` without values."""
    params = decoder_shapes(GPT2Decoder, fields, fields["width"])
    if cross:
        return params
    block = {n: p for n, p in params["blocks_0"].items() if n not in ("norms_1", "cross_attention")}
    return {name: block if name.startswith("blocks_") else p for name, p in params.items()}


def gpt2_fields(source: str | os.PathLike) -> dict[str, Any]:
    """Reads the fields of a GPT-2 alone, by its config.json; see `read_gpt2`, also for errors."""
    folder, _ = folder_and_file(source, weights=False)
    return _read_config(folder)[0]


def _read_config(folder: str) -> tuple[dict[str, Any], bool]:
    at = os.path.join(folder, "config.json")
    with blamed(at, "its fields make no GPT-2"):
        return read_config(read_json(at), at)


def read_gpt2(source: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the fields and the parameters of a GPT-2 alone, for a warm start.

    Args:
      source: a folder with config.json and weights (see `checkpoint_folders`), a file of weights in
        such a folder, or the name of one on huggingface.co, such as "openai-community/gpt2".

    Returns:
      Fields for `GPT2Decoder(**fields)`, and its parameters, NumPy, float32, without those that
      attend to an image where the checkpoint has none; `fill_fresh` adds them.

    Raises:
      WeightsError: there is no such source, or it is no GPT-2 that `GPT2Decoder` can be.
    """
    folder, file = folder_and_file(source, weights=True)
    fields, cross = _read_config(folder)
    file = file or weights_file(folder)
    return fields, to_params(read_weights(file), fields, file, cross=cross)


def fill_fresh(
    params: Mapping[str, Any], fresh: Mapping[str, Any], path: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fills the parameters that a checkpoint lacks with fresh ones.

    Args:
      params: of the checkpoint, from `read_gpt2`.
      fresh: all parameters of the decoder, as it was initialised.
      path: of the checkpoint, for messages.

    Returns:
      All parameters, and the names of the fresh ones, such as "blocks_0/cross_attention/out/bias".

    Raises:
      WeightsError: a parameter is not the decoder's, or of another shape.
    """
    given, wanted = (traverse_util.flatten_dict(dict(p), sep="/") for p in (params, fresh))
    names = tuple(name for name in wanted if name not in given)
    check_fit(given, {name: wanted[name].shape for name in wanted if name not in names}, path)
    return traverse_util.unflatten_dict({**wanted, **given}, sep="/"), names
