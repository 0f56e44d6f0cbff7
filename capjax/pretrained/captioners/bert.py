"""What text decoders of transformers that are made of BERT's layers have in common.

Their fields in a config.json, and the names of their tensors, for decoders with the parts of
`capjax.models.decoders.transformer`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from capjax.pretrained.errors import ExportError, WeightsError
from capjax.pretrained.tables import Row, Table, dense, norm

# Whole numbers, and the fields that they are.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_length",
}
_RATES = {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}
_ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
}
# What none exceeds by far: a wrong one is no model to make.
_LARGEST = 1 << 20


def read_fields(section: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Reads the fields of a decoder that its weights depend on, and its dropout rates.

    Args:
      section: of a config.json, with a value for every field.
      path: of the file, for the message.

    Raises:
      WeightsError: a field is out of its range.
    """
    for name in (*_SIZES, "intermediate_size"):
        if type(section[name]) is not int or not 1 <= section[name] <= _LARGEST:
            raise refusal(path, name, section[name], f"a whole number of 1 to {_LARGEST}")
    width, activation = section["hidden_size"], section["hidden_act"]
    if width % section["num_attention_heads"]:
        value = section["num_attention_heads"]
        raise refusal(path, "num_attention_heads", value, f"what divides hidden_size={width}")
    if activation not in _ACTIVATIONS:
        raise refusal(path, "hidden_act", activation, ", ".join(_ACTIVATIONS))
    for name in (*_RATES, "layer_norm_eps"):
        if type(section[name]) not in (int, float) or not 0 <= section[name] < 1:
            raise refusal(path, name, section[name], "a number of 0 or more and below 1")
    return {
        **{ours: section[theirs] for theirs, ours in _SIZES.items()},
        "mlp_ratio": section["intermediate_size"] / width,
        "activation": _ACTIVATIONS[activation],
        "epsilon": float(section["layer_norm_eps"]),
        **{ours: float(section[theirs]) for theirs, ours in _RATES.items()},
    }


def write_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a section of a config.json, the inverse of `read_fields`.

    Raises:
      ExportError: transformers has no such activation.
    """
    names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    if fields["activation"] not in names:
        raise ExportError(
            f"config.decoder.activation={fields['activation']!r} is none that transformers has; it "
            f"must be {', '.join(map(repr, names))}"
        )
    return {
        **{theirs: fields[ours] for theirs, ours in _SIZES.items()},
        "intermediate_size": round(fields["mlp_ratio"] * fields["width"]),
        "hidden_act": names[fields["activation"]],
        "layer_norm_eps": fields["epsilon"],
        **{theirs: fields[ours] for theirs, ours in _RATES.items()},
    }


def refusal(path: str, name: str, value: Any, instead: str) -> WeightsError:
    """The error for a field that has another value than it must have."""
    return WeightsError(f"{path}: {name}={value!r:.60} is not supported; it must be {instead}")


def table(start: str) -> Table:
    """Returns the rows of the embeddings and the layers, for tensors whose names start so."""
    embeddings, layer = f"{start}embeddings.", f"{start}encoder.layer.{{}}."
    rows = [
        Row(f"{embeddings}word_embeddings.weight", "tokens/embedding"),
        Row(f"{embeddings}position_embeddings.weight", "positions/embedding"),
        *norm(f"{embeddings}LayerNorm", "embedding_norm"),
        *dense(f"{layer}intermediate.dense", "blocks_{}/feed_forward/up"),
        *dense(f"{layer}output.dense", "blocks_{}/feed_forward/down"),
        *norm(f"{layer}output.LayerNorm", "blocks_{}/norms_2"),
    ]
    for number, (theirs, ours) in enumerate(
        (("attention", "self_attention"), ("crossattention", "cross_attention"))
    ):
        key_value = tuple(f"{layer}{theirs}.self.{part}" for part in ("key", "value"))
        rows += [
            *dense(f"{layer}{theirs}.self.query", f"blocks_{{}}/{ours}/query"),
            *dense(key_value, f"blocks_{{}}/{ours}/key_value"),
            *dense(f"{layer}{theirs}.output.dense", f"blocks_{{}}/{ours}/out"),
            *norm(f"{layer}{theirs}.output.LayerNorm", f"blocks_{{}}/norms_{number}"),
        ]
    return rows


def own(
    tensors: Mapping[str, np.ndarray], tied: Mapping[str, str], path: str
) -> dict[str, np.ndarray]:
    """Returns the tensors without buffers of positions, and each of two that are one only once.

    Args:
      tensors: of a file.
      tied: names of tensors that files may have beside, or in place of, the one that they are.
      path: of the file, for the message.

    Raises:
      WeightsError: two that must be one differ.
    """
    found = {name: a for name, a in tensors.items() if not name.endswith("position_ids")}
    for copy, name in tied.items():
        array = found.pop(copy, None)
        if array is not None and not np.array_equal(found.setdefault(name, array), array):
            raise WeightsError(f"{path}: {copy} is not {name}, and the model's are one")
    return found
