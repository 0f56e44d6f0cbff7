"""Captioners of Hugging Face's transformers, and what each kind of them must say of itself.

A folder of theirs, or a name on huggingface.co, has config.json, weights of any kind that
`checkpoint_folders` knows, preprocessor_config.json, tokenizer files and generation_config.json.
Nothing in them is executed.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.resize import Resize
from capjax.data.tokenizer import Tokenizer
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.contract import Decoder
from capjax.models.encoders.vit import ViT
from capjax.parts.registry import Registry
from capjax.pretrained import tables
from capjax.pretrained.captioners.generation_file import Generation
from capjax.pretrained.errors import WeightsError

FAMILIES = Registry("captioner", "capjax.pretrained.captioners.families")

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a config.json says of the decoder.

    Attributes:
      decoder: fields of the decoder's module that its weights depend on; dropout rates may be
        there, too.
      adapter: fields of the `Adapter` before it, or None.
      label_smoothing: of its training; None where it says nothing.
    """

    decoder: Mapping[str, Any]
    adapter: Mapping[str, Any] | None = None
    label_smoothing: float | None = None


@dataclasses.dataclass(frozen=True)
class PretrainedCaptioner:
    """The content of a folder.

    Attributes:
      family: what kind of captioner it is.
      encoder: fields of `ViT`, all but its dtype.
      fields: of the decoder.
      variables: {"params": {"encoder", "decoder", "adapter"}}, the last where there is an adapter;
        NumPy, float32.
      resize: what makes squares of images.
      tokenizer: what it bans is never generated.
      generation: how it is meant to caption.
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
        """Returns the fields of a config that the files say, by section."""
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
      decoder: its module.
      decoder_name: in configs.
      decoder_title: in messages.
      fixed: fields that the decoder's weights need, whatever a config says.
      part_tables: of the tensors of each part but the encoder, with what their names start with.
      own_fields: further fields of the decoder, which others do not have.
      projects: whether there is an adapter where the widths of encoder and decoder differ.
      model_type: of its config.json.
      architecture: its class in transformers.
      encoder_prefix: before the names of the encoder's tensors.
      encoder_types: model_types that this section may have when it is written, best first.
      processor: its processor in transformers; "" for none that also has the tokenizer.
      resizer: kind of the image processor that cuts nothing off.
      reads_settings: whether transformers' `generate` obeys its generation_config.json.
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
        """Reads a whole config.json; raises WeightsError where capjax has no such captioner."""
        raise NotImplementedError

    def read_tokenizer(
        self, folder: str | os.PathLike, config: Mapping[str, Any], fields: Fields
    ) -> Tokenizer:
        """Reads the tokenizer; raises WeightsError where it is not the model's."""
        raise NotImplementedError

    def read_generation(
        self, folder: str | os.PathLike, config: Mapping[str, Any], tokenizer: Tokenizer
    ) -> Generation:
        """Reads how it is meant to caption; raises WeightsError for what capjax can't do."""
        raise NotImplementedError

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
        """Builds the module, with these fields of its decoder in place of `fields.decoder`."""
        adapter = None if fields.adapter is None else Adapter(**fields.adapter, dtype=dtype)
        return Captioner(ViT(**encoder, dtype=dtype), self.decoder(**decoder, dtype=dtype), adapter)

    def shapes(self, fields: Fields, encoder_width: int) -> dict[str, Any]:
        """Returns the shapes of the decoder's parameters, by blocks "blocks_NUMBER"."""
        width = encoder_width if fields.adapter is None else fields.adapter["width"]
        decoder = self.decoder(**{**fields.decoder, "num_layers": 1})
        model = Captioner(FeatureEncoder((1, 1)), decoder)
        found = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (1, width)))
        params = found["params"]["decoder"]
        return tables.repeat(params, "blocks_", fields.decoder["num_layers"])


def family_of(config: Mapping[str, Any], path: str) -> Family:
    """Returns the kind of captioner that a config.json is of; `path` is the file's.

    Raises:
      WeightsError: there is no such kind.
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
