"""From a config to the parts that it names."""

import os
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from capjax.data.captions import CaptionTable, read_captions
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.evaluate.captioning import BeamSearch
from capjax.models.captioner import Captioner
from capjax.models.conv_encoder import ConvEncoder
from capjax.models.patch_encoder import PatchEncoder
from capjax.models.transformer_decoder import TransformerDecoder
from capjax.train import optimizer as optimizers
from capjax.train.checkpoint import Checkpoints

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
EARLY_STOPPING = {"true": True, "false": False, "never": "never"}


class ConfigError(ValueError):
    """A config that names no model, or one that can't be; the message names the field."""


def _choose(options: dict, value: str, field: str):
    if value not in options:
        raise ConfigError(f"config.{field}={value!r}; it may be {', '.join(map(repr, options))}")
    return options[value]


def source(dataset: ConfigDict, split: str) -> Source:
    """One split of the dataset, prepared where it is not yet."""
    # Here, because it needs tensorflow-datasets and captioning does not.
    from capjax.data.tfds_source import open_tfds

    return open_tfds(dataset.name, split, data_dir=dataset.data_dir)


def captions(dataset: ConfigDict, split: Source) -> CaptionTable:
    """The captions of a split, read once and then kept in `dataset.cache_dir`."""
    cache = dataset.cache_dir
    return read_captions(split, os.path.expanduser(cache) if cache else None)


def tokenizer(config: ConfigDict, train: CaptionTable) -> Tokenizer:
    """A word tokenizer of the train split."""
    return train_word_tokenizer(
        (caption for image in train.captions for caption in image), **config
    )


def captioner(
    config: ConfigDict, tokenizer: Tokenizer, output_bias: Sequence[float] | None = None
) -> Captioner:
    """The model of the config's encoder and decoder sections.

    Args:
      config: the whole config.
      tokenizer: its vocabulary sizes the decoder; its special ids are banned.
      output_bias: where the output bias starts in a new model.
    """
    dtype = _choose(DTYPES, config.dtype, "dtype")
    fields = dict(config.encoder)
    encoders = {"patch": PatchEncoder, "conv": ConvEncoder}
    encoder: nn.Module = _choose(encoders, fields.pop("name"), "encoder.name")(
        **fields, dtype=dtype
    )
    fields = dict(config.decoder)
    fields.pop("smart_bias")
    decoder = _choose({"transformer": TransformerDecoder}, fields.pop("name"), "decoder.name")(
        vocab_size=tokenizer.vocab_size,
        # Positions: bos and the words of the longest caption.
        max_length=config.dataset.max_length,
        banned=tokenizer.banned_ids,
        output_bias=None if output_bias is None else tuple(output_bias),
        dtype=dtype,
        **fields,
    )
    return Captioner(encoder, decoder)


def log_frequencies(counts: np.ndarray) -> np.ndarray:
    """Log shares [V] of token counts [V]; a token never seen counts as seen once."""
    return np.log(np.maximum(counts, 1) / counts.sum())


def beam_search(decoding: ConfigDict) -> BeamSearch:
    """The decoding section as a method."""
    stopping = _choose(EARLY_STOPPING, decoding.early_stopping, "decoding.early_stopping")
    return BeamSearch(**{**decoding, "early_stopping": stopping})


def schedule(config: ConfigDict) -> optax.Schedule:
    """Step -> learning rate."""
    return optimizers.learning_rate_schedule(
        config.optimizer.learning_rate, config.optimizer.warmup_steps, config.num_steps
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer section, on the config's schedule."""
    section = config.optimizer
    return optimizers.adamw(
        schedule(config),
        b1=section.b1,
        b2=section.b2,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
    )


def checkpoints(directory: str, config: ConfigDict, *, read_only: bool = False) -> Checkpoints:
    """The checkpoints of a workdir, ranked by the early-stopping section's metric."""
    section = config.early_stopping
    return Checkpoints(
        os.path.join(directory, "checkpoints"), section.metric, section.mode, read_only=read_only
    )
