"""GPT-2 in the format of Hugging Face's transformers, for `capjax.models.decoders.gpt2`.

Tensors are named "transformer.h.0.attn.c_attn.weight", or without "transformer.". They are laid out
as transformers' Conv1D has them: a weight is [in, out]. Nothing in the files is executed.
Legend: D width, I inner width of a feed-forward block, V vocabulary, M positions, L layers.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from capjax.pretrained.checkpoint_folders import (
    folder_and_file,
    read_json,
    read_weights,
    weights_file,
)
from capjax.pretrained.weights import ExportError, WeightsError, check_fit

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
_WHOLE = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# By their names in flax.linen.
_ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Causal masks, which early files keep.
_MASKS = re.compile(r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")
_EMBEDDING = "wte.weight"


def read_config(config: Mapping[str, Any], path: str) -> tuple[dict[str, Any], bool]:
    """What a config.json, or the decoder's section of one, says of a GPT-2.

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
            f"{path}: the decoder's model_type is {config.get('model_type')!r}, and may be 'gpt2'"
        )
    found = {**_DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
    for name in _FIXED:
        if found[name] != _DEFAULTS[name]:
            raise _refusal(path, name, found[name], _DEFAULTS[name])
    for name in (*_WHOLE, "n_inner"):
        if (value := found[name]) is not None and (type(value) is not int or value < 1):
            raise _refusal(path, name, value, "a whole number of 1 or more")
    width, activation = found["n_embd"], found["activation_function"]
    if width % found["n_head"]:
        raise _refusal(path, "n_head", found["n_head"], f"what divides n_embd={width}")
    if activation not in _ACTIVATIONS:
        raise _refusal(path, "activation_function", activation, ", ".join(_ACTIVATIONS))
    fields = {
        "vocab_size": found["vocab_size"],
        "max_length": found["n_positions"],
        "width": width,
        "num_layers": found["n_layer"],
        "num_heads": found["n_head"],
        "mlp_ratio": (found["n_inner"] or 4 * width) / width,
        "activation": _ACTIVATIONS[activation],
        "epsilon": float(found["layer_norm_epsilon"]),
    }
    return fields, bool(found["add_cross_attention"])


def write_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's section of a config.json, the inverse of `read_config`.

    Args:
      fields: of a `GPT2Decoder` that attends to an image, as from `read_config`; with "dropout" and
        "attention_dropout", where they are known.

    Raises:
      ExportError: GPT-2 has no such activation.
    """
    names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    if fields["activation"] not in names:
        raise ExportError(
            f"config.decoder.activation={fields['activation']!r} is no GPT-2's in transformers; it "
            f"may be {', '.join(map(repr, names))}"
        )
    dropouts = {
        "embd_pdrop": "dropout",
        "resid_pdrop": "dropout",
        "attn_pdrop": "attention_dropout",
    }
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "is_decoder": True,
        "add_cross_attention": True,
        "tie_word_embeddings": True,
        "vocab_size": fields["vocab_size"],
        "n_positions": fields["max_length"],
        "n_embd": fields["width"],
        "n_layer": fields["num_layers"],
        "n_head": fields["num_heads"],
        "n_inner": round(fields["mlp_ratio"] * fields["width"]),
        "activation_function": names[fields["activation"]],
        "layer_norm_epsilon": fields["epsilon"],
        **{theirs: fields[ours] for theirs, ours in dropouts.items() if ours in fields},
    }


def _refusal(path: str, name: str, value: Any, instead: Any) -> WeightsError:
    return WeightsError(f"{path}: {name}={value} is not supported; it may be {instead}")


def to_params(
    tensors: Mapping[str, np.ndarray], fields: Mapping[str, Any], path: str, *, cross: bool
) -> dict[str, Any]:
    """The parameters of `GPT2Decoder(**fields)`.

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
    marks = [name for name in tensors if f".{name}".endswith(f".{_EMBEDDING}")]
    if len(marks) != 1:
        raise WeightsError(
            f"{path}: has {len(marks)} tensors *{_EMBEDDING}, and a file of one GPT-2 has 1; it "
            f"has {', '.join(list(tensors)[:4])}, ..."
        )
    start = marks[0].removesuffix(_EMBEDDING)
    head = f"{start.removesuffix('transformer.')}lm_head.weight"
    given = {
        name: array
        for name, array in tensors.items()
        if name != head and not _MASKS.fullmatch(name.removeprefix(start))
    }
    check_fit(given, {start + name: s for name, s in _shapes(fields, cross).items()}, path)
    # A file that was not tied would speak otherwise here than in transformers.
    if head in tensors and not np.array_equal(tensors[head], tensors[marks[0]]):
        raise WeightsError(
            f"{path}: {head} is not {marks[0]}, and GPT-2's output layer is its embedding"
        )
    given = {name.removeprefix(start): np.asarray(a, np.float32) for name, a in given.items()}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": given[f"{name}.weight"], "bias": given[f"{name}.bias"]}

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": given[f"{name}.weight"], "bias": given[f"{name}.bias"]}

    def block(number: int) -> dict[str, Any]:
        h = f"h.{number}."
        joined = dense(f"{h}attn.c_attn")
        query, key_value = (
            {name: array[..., part] for name, array in joined.items()}
            for part in (np.s_[: fields["width"]], np.s_[fields["width"] :])
        )
        out = dense(f"{h}attn.c_proj")
        parts = {
            "norms_0": norm(f"{h}ln_1"),
            "self_attention": {"query": query, "key_value": key_value, "out": out},
            "norms_2": norm(f"{h}ln_2"),
            "feed_forward": {"up": dense(f"{h}mlp.c_fc"), "down": dense(f"{h}mlp.c_proj")},
        }
        if cross:
            names = {"query": "q_attn", "key_value": "c_attn", "out": "c_proj"}
            parts["norms_1"] = norm(f"{h}ln_cross_attn")
            parts["cross_attention"] = {
                ours: dense(f"{h}crossattention.{theirs}") for ours, theirs in names.items()
            }
        return parts

    return {
        "tokens": {"embedding": given[_EMBEDDING]},
        "positions": {"embedding": given["wpe.weight"]},
        **{f"blocks_{number}": block(number) for number in range(fields["num_layers"])},
        "last_norm": norm("ln_f"),
    }


def to_tensors(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a GPT-2 that attends to an image, the inverse of `to_params`.

    Args:
      params: of a `GPT2Decoder`.

    Returns:
      float32, named as "transformer.wte.weight"; the output layer is that and has no own.
    """
    tensors = {
        _EMBEDDING: params["tokens"]["embedding"],
        "wpe.weight": params["positions"]["embedding"],
    }

    def layer(name: str, given: Mapping[str, np.ndarray]) -> None:
        tensors[f"{name}.weight"] = given["kernel" if "kernel" in given else "scale"]
        tensors[f"{name}.bias"] = given["bias"]

    layer("ln_f", params["last_norm"])
    blocks = [name for name in params if name.startswith("blocks_")]
    for number in range(len(blocks)):
        block, h = params[f"blocks_{number}"], f"h.{number}."
        itself, image = block["self_attention"], block["cross_attention"]
        parts = itself["query"], itself["key_value"]
        joined = {n: np.concatenate([part[n] for part in parts], -1) for n in ("kernel", "bias")}
        layer(f"{h}ln_1", block["norms_0"])
        layer(f"{h}attn.c_attn", joined)
        layer(f"{h}attn.c_proj", itself["out"])
        layer(f"{h}ln_cross_attn", block["norms_1"])
        layer(f"{h}crossattention.q_attn", image["query"])
        layer(f"{h}crossattention.c_attn", image["key_value"])
        layer(f"{h}crossattention.c_proj", image["out"])
        layer(f"{h}ln_2", block["norms_2"])
        layer(f"{h}mlp.c_fc", block["feed_forward"]["up"])
        layer(f"{h}mlp.c_proj", block["feed_forward"]["down"])
    return {f"transformer.{name}": np.asarray(a, np.float32) for name, a in tensors.items()}


def _shapes(fields: Mapping[str, Any], cross: bool) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that a GPT-2 of these fields has."""
    width = fields["width"]
    inner = round(fields["mlp_ratio"] * width)
    shapes = {
        _EMBEDDING: (fields["vocab_size"], width),
        "wpe.weight": (fields["max_length"], width),
    }
    norms = ["ln_f"]
    for number in range(fields["num_layers"]):
        h = f"h.{number}."
        norms += [f"{h}ln_1", f"{h}ln_2"]
        kernels = {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, inner),
            "mlp.c_proj": (inner, width),
        }
        if cross:
            norms.append(f"{h}ln_cross_attn")
            kernels |= {
                "crossattention.q_attn": (width, width),
                "crossattention.c_attn": (width, 2 * width),
                "crossattention.c_proj": (width, width),
            }
        for name, shape in kernels.items():
            shapes |= {f"{h}{name}.weight": shape, f"{h}{name}.bias": shape[1:]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def gpt2_fields(source: str | os.PathLike) -> dict[str, Any]:
    """The fields of a GPT-2 alone, by its config.json; see `read_gpt2`, also for errors."""
    folder, _ = folder_and_file(source, weights=False)
    return _read_config(folder)[0]


def _read_config(folder: str) -> tuple[dict[str, Any], bool]:
    at = os.path.join(folder, "config.json")
    return read_config(read_json(at), at)


def read_gpt2(source: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields and the parameters of a GPT-2 alone, for a warm start.

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
    """The parameters of a checkpoint, and fresh ones where it has none.

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
