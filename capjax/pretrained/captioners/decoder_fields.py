"""Common to the text decoders of transformers: fields in a config.json, and shapes."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.contract import Decoder
from capjax.pretrained import tables
from capjax.pretrained.errors import ExportError, refusal

# By transformers' name, those of `capjax.models.layers`; of several, the first is written.
_ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# No published model comes near it, and a larger one would not fit into memory.
_LARGEST = 1 << 20


def check_sizes(section: Mapping[str, Any], names: Iterable[str], path: str) -> None:
    """Raises WeightsError unless fields are whole numbers from 1 to 2**20.

    Args:
      section: of a config.json.
      names: of the fields.
      path: of the file, for the message.
    """
    for name in names:
        if type(section[name]) is not int or not 1 <= section[name] <= _LARGEST:
            raise refusal(path, name, section[name], f"a whole number of 1 to {_LARGEST}")


def check_heads(section: Mapping[str, Any], heads: str, width: str, path: str) -> None:
    """Raises WeightsError unless the number of heads, a field, divides the width, another."""
    if section[width] % section[heads]:
        raise refusal(path, heads, section[heads], f"what divides {width}={section[width]}")


def read_activation(section: Mapping[str, Any], name: str, path: str) -> str:
    """Reads the activation of the field `name`; raises WeightsError for one that capjax lacks."""
    value = section[name]
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        raise refusal(path, name, value, ", ".join(_ACTIVATIONS))
    return _ACTIVATIONS[value]


def write_activation(name: str) -> str:
    """Inverse of `read_activation`; raises ExportError for one that transformers lacks."""
    names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    if name not in names:
        raise ExportError(
            f"config.decoder.activation={name!r} is none that transformers has; it must be "
            f"{', '.join(map(repr, names))}"
        )
    return names[name]


def decoder_shapes(
    decoder: type[Decoder], fields: Mapping[str, Any], memory_width: int
) -> dict[str, Any]:
    """Returns the shapes of a decoder's parameters, by blocks "blocks_NUMBER"."""
    model = Captioner(FeatureEncoder((1, 1)), decoder(**{**fields, "num_layers": 1}))
    found = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (1, memory_width)))
    return tables.repeat(found["params"]["decoder"], "blocks_", fields["num_layers"])
