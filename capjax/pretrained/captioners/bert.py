"""Captioners of transformers whose decoders are made of BERT's layers: what they have in common.

Their fields in a config.json, the names of their tensors, and their tokenizer.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from capjax.pretrained import tables
from capjax.pretrained.captioners import wordpiece
from capjax.pretrained.captioners.captioner import Family, Tensors
from capjax.pretrained.captioners.decoder_fields import (
    check_heads,
    check_sizes,
    read_activation,
    write_activation,
)
from capjax.pretrained.errors import WeightsError, refusal
from capjax.pretrained.tables import Row, Table, dense, norm
from capjax.pretrained.weights import blamed, check_depth

# Whole numbers, and the fields that they are.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_length",
}
_RATES = {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}


def read_fields(section: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Reads the fields of a decoder that its weights depend on, and its dropout rates.

    Args:
      section: of a config.json, with a value for every field.
      path: of the file, for the message.

    Raises:
      WeightsError: a field is out of its range.
    """
    check_sizes(section, (*_SIZES, "intermediate_size"), path)
    check_heads(section, "num_attention_heads", "hidden_size", path)
    for name in (*_RATES, "layer_norm_eps"):
        if type(section[name]) not in (int, float) or not 0 <= section[name] < 1:
            raise refusal(path, name, section[name], "a number of 0 or more and below 1")
    return {
        **{ours: section[theirs] for theirs, ours in _SIZES.items()},
        "mlp_ratio": section["intermediate_size"] / section["hidden_size"],
        "activation": read_activation(section, "hidden_act", path),
        "epsilon": float(section["layer_norm_eps"]),
        **{ours: float(section[theirs]) for theirs, ours in _RATES.items()},
    }


def write_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a section of a config.json, the inverse of `read_fields`.

    Raises:
      ExportError: transformers has no such activation.
    """
    return {
        **{theirs: fields[ours] for theirs, ours in _SIZES.items()},
        "intermediate_size": round(fields["mlp_ratio"] * fields["width"]),
        "hidden_act": write_activation(fields["activation"]),
        "layer_norm_eps": fields["epsilon"],
        **{theirs: fields[ours] for theirs, ours in _RATES.items()},
    }


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


class BertFamily(Family):
    """A kind of captioner whose decoder is made of BERT's layers, with a WordPiece tokenizer.

    Attributes:
      tied: names of tensors that files may have beside, or in place of, the one that they equal.
    """

    tied: ClassVar[Mapping[str, str]] = {}

    def to_params(self, tensors, fields, encoder_width, path):
        check_depth(fields.decoder["num_layers"], tensors, path)
        with blamed(path, f"its fields and its tensors make no {self.decoder_title}"):
            like, own = self.shapes(fields, encoder_width), self._own(tensors, path)
            return {"decoder": tables.read(self.part_tables["decoder"][0], own, like, path)}

    def _own(self, tensors: Tensors, path: str) -> dict[str, np.ndarray]:
        """Returns the tensors without buffers of positions, and of two that are tied only one."""
        found = {name: a for name, a in tensors.items() if not name.endswith("position_ids")}
        for copy, name in self.tied.items():
            array = found.pop(copy, None)
            if array is not None and not np.array_equal(found.setdefault(name, array), array):
                raise WeightsError(f"{path}: {copy} is not {name}, and the model's are one")
        return found

    def write_tokenizer(self, tokenizer, folder, max_length):
        return wordpiece.write_wordpiece(tokenizer, folder, max_length)
