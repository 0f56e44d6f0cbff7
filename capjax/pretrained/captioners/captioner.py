"""Captioners of Hugging Face's transformers, and the interface of their kinds, the families.

A folder of theirs, or a name on huggingface.co, has config.json, weights of any kind that
`checkpoint_folders` knows, preprocessor_config.json, tokenizer files and generation_config.json.
Nothing in them is executed.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from capjax.data.resize import Resize
from capjax.data.tokenizer import Tokenizer
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner
from capjax.models.contract import Decoder
from capjax.models.encoders.vit import ViT
from capjax.parts.registry import Registry
from capjax.pretrained import tables
from capjax.pretrained.captioners.decoder_fields import decoder_shapes
from capjax.pretrained.captioners.generation_file import Generation, read_generation
from capjax.pretrained.errors import WeightsError

FAMILIES = Registry("captioner", "capjax.pretrained.captioners.families")

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields that a config.json gives the decoder and the adapter before it.

    Attributes:
      decoder: fields of the decoder's module that its weights depend on; dropout rates may be
        there, too.
      adapter: fields of the `Adapter`, or None if there is none.
      label_smoothing: of its training; None where the file has none.
    """

    decoder: Mapping[str, Any]
    adapter: Mapping[str, Any] | None = None
    label_smoothing: float | None = None


@dataclasses.dataclass(frozen=True)
class PretrainedCaptioner:
    """The content of a folder.

    Attributes:
      family: the kind of captioner.
      encoder: fields of `ViT`, all but its dtype.
      fields: of the decoder.
      variables: {"params": {"encoder", "decoder", "adapter"}}, the last where there is an adapter;
        NumPy, float32.
      resize: makes images square.
      tokenizer: its `banned_ids` are never generated.
      generation: its settings of decoding.
    """

    family: "Family"
    encoder: Mapping[str, Any]
    fields: Fields
    variables: dict[str, Any]
    resize: Resize
    tokenizer: Tokenizer
    generation: Generation

    def module(self, dtype: Any = jnp.float32) -> Captioner:
        """Builds the module of `variables`; `dtype` is the computation's."""
        decoder = {**self.fields.decoder, "banned": self.tokenizer.banned_ids}
        return self.family.module(self.encoder, self.fields, decoder, dtype)

    def sections(self) -> dict[str, dict[str, Any]]:
        """Returns the fields of a config that the files give, by section."""
        decoder = {n: value for n, value in self.fields.decoder.items() if n != "vocab_size"}
        pixels = dataclasses.asdict(self.resize)
        found = {
            "dataset": {"image_size": pixels.pop("size"), **pixels},
            "encoder": {"name": "vit", **self.encoder},
            "decoder": {"name": self.family.decoder_name, **decoder},
            "decoding": self.generation.section(),
        }
        if self.fields.adapter is not None:
            found["adapter"] = dict(self.fields.adapter)
        return found


class Family:
    """A kind of captioner: a ViT with a decoder, the names of its tensors and its files.

    Attributes:
      decoder: the decoder's class, which no other family has.
      decoder_name: the decoder's name in configs.
      decoder_title: the decoder's name in messages.
      fixed: values of the decoder's fields without which its tensors would mean something else.
      part_tables: for each part but the encoder, the table of its tensors and the prefix of their
        names.
      own_fields: fields of the decoder, on which its parameters depend, that only this one has.
      projects: whether there is an adapter where the widths of encoder and decoder differ.
      model_type: the family's name in a config.json.
      architecture: the captioner's class in transformers.
      encoder_prefix: the prefix of the names of the encoder's tensors.
      encoder_types: model_types that the encoder's section may have when it is written, best first.
      processor: the class in transformers that joins image processor and tokenizer; "" for none.
      resizer: the image processor, "Blip" of BlipImageProcessor, for a resize without a crop.
      reads_settings: whether transformers' `generate` obeys the folder's generation_config.json.
    """

    decoder: ClassVar[type[Decoder]]
    decoder_name: ClassVar[str]
    decoder_title: ClassVar[str]
    fixed: ClassVar[Mapping[str, Any]]
    part_tables: ClassVar[Mapping[str, tuple[tables.Table, str]]]
    own_fields: ClassVar[tuple[str, ...]] = ()
    projects: ClassVar[bool] = False
    model_type: ClassVar[str]
    architecture: ClassVar[str]
    encoder_prefix: ClassVar[str]
    encoder_types: ClassVar[tuple[str, ...]]
    processor: ClassVar[str] = ""
    resizer: ClassVar[str] = "ViT"
    reads_settings: ClassVar[bool] = True

    def read_fields(self, config: Mapping[str, Any], path: str) -> Fields:
        """Reads a whole config.json; raises WeightsError for a captioner that capjax lacks."""
        raise NotImplementedError

    def read_tokenizer(
        self, folder: str | os.PathLike, config: Mapping[str, Any], fields: Fields
    ) -> Tokenizer:
        """Reads the tokenizer; raises WeightsError where it is not the model's."""
        raise NotImplementedError

    def read_generation(
        self, folder: str | os.PathLike, config: Mapping[str, Any], tokenizer: Tokenizer
    ) -> Generation:
        """Reads its generation settings; raises WeightsError for those that capjax lacks."""
        return read_generation(folder, tokenizer)

    def to_params(
        self, tensors: Tensors, fields: Fields, encoder_width: int, path: str
    ) -> dict[str, Any]:
        """Turns all tensors but the encoder's into the decoder's and the adapter's parameters."""
        raise NotImplementedError

    def write_config(
        self, captioner: PretrainedCaptioner, encoder: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the content of a config.json with that section of an encoder."""
        raise NotImplementedError

    def to_tensors(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns all tensors but the encoder's, the inverse of `to_params`."""
        found: dict[str, np.ndarray] = {}
        for part, (table, start) in self.part_tables.items():
            found |= tables.write(table, params.get(part, {}), start)
        return found

    def write_tokenizer(
        self, tokenizer: Tokenizer, folder: str | os.PathLike, max_length: int
    ) -> dict[str, dict[str, Any]]:
        """Writes the tokenizer; returns the contents of further JSON files, by name."""
        raise NotImplementedError

    def module(
        self, encoder: Mapping[str, Any], fields: Fields, decoder: Mapping[str, Any], dtype: Any
    ) -> Captioner:
        """Builds the module; `decoder` has all fields of the decoder but the dtype."""
        adapter = None if fields.adapter is None else Adapter(**fields.adapter, dtype=dtype)
        return Captioner(ViT(**encoder, dtype=dtype), self.decoder(**decoder, dtype=dtype), adapter)

    def shapes(self, fields: Fields, encoder_width: int) -> dict[str, Any]:
        """Returns the shapes of the decoder's parameters, by blocks "blocks_NUMBER"."""
        width = encoder_width if fields.adapter is None else fields.adapter["width"]
        return decoder_shapes(self.decoder, fields.decoder, width)


def family_of(config: Mapping[str, Any], path: str) -> Family:
    """Returns the family of a config.json's model_type; `path` is the file's.

    Raises:
      WeightsError: there is no such family.
    """
    # A file is named as the model_type, as far as Python allows.
    given, names = config.get("model_type"), FAMILIES.names()
    kind = str(given).replace("-", "_")
    if kind not in names:
        listed = ", ".join(repr(name.replace("_", "-")) for name in names)
        raise WeightsError(
            f"{path}: its model_type is {given!r:.60}, and a captioner's is {listed}"
        )
    return FAMILIES.get(kind)
