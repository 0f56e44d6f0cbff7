"""From a config to the parts that it names."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from operator import getitem
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from capjax.data import feature_cache
from capjax.data.augment import Augmentation
from capjax.data.shapes import facts
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import BeamSearch
from capjax.evaluate.scoring import Scorer
from capjax.metrics import coco
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner, Variables
from capjax.models.conv_encoder import ConvEncoder
from capjax.models.mobilenet_v2 import MobileNetV2
from capjax.models.patch_encoder import PatchEncoder
from capjax.models.transformer_decoder import TransformerDecoder
from capjax.pretrained.mobilenet_v2 import load_mobilenet_v2
from capjax.train import optimizer as optimizers
from capjax.train.checkpoint import Checkpoints

COMPILATION_CACHE = "~/.cache/capjax/xla"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# What training makes of an encoder, and its module does not know.
TRAINING_FIELDS = ("weights", "frozen", "cache", "cache_views")
EARLY_STOPPING = {"true": True, "false": False, "never": "never"}


class ConfigError(ValueError):
    """A config that names no model, or one that can't be; the message names the field."""


def _choose(options: dict, value: str, field: str):
    if value not in options:
        raise ConfigError(f"config.{field}={value!r}; it may be {', '.join(map(repr, options))}")
    return options[value]


def check(config: ConfigDict) -> None:
    """Raises ConfigError for what would otherwise be found out hours later, naming the field."""
    least = dict.fromkeys(("batch_size", "num_steps", "accumulate", "log_every", "eval_every"), 1)
    least |= {"seed": 0, "dataset.max_length": 2, "dataset.num_threads": 1}
    for field, number in least.items():
        if (value := functools.reduce(getitem, field.split("."), config)) < number:
            raise ConfigError(f"config.{field}={value} must be {number} or more")
    sizes = {"batch_size": config.batch_size, "evaluation.batch_size": config.evaluation.batch_size}
    for field, size in sizes.items():
        if size < 1 or size % jax.device_count():
            raise ConfigError(
                f"config.{field}={size} must be a multiple of the {jax.device_count()} devices"
            )
    per_device = config.batch_size // jax.device_count()
    if per_device % config.accumulate:
        raise ConfigError(
            f"config.accumulate={config.accumulate} must divide the {per_device} images a device "
            "has of config.batch_size"
        )
    if not 0 <= config.optimizer.warmup_steps < config.num_steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps={config.optimizer.warmup_steps} must be below "
            f"config.num_steps={config.num_steps}"
        )
    check_decoding(config.decoding, config.dataset.max_length)
    _choose({"drop": 0, "cut": 0}, config.dataset.over_length, "dataset.over_length")
    _choose({"max": 0, "min": 0}, config.early_stopping.mode, "early_stopping.mode")
    metrics = ("loss", "accuracy", *coco.METRICS, *(facts.METRICS if has_facts(config) else ()))
    _choose(dict.fromkeys(metrics), config.early_stopping.metric, "early_stopping.metric")
    if is_pretrained(config) and not config.encoder.weights:
        raise ConfigError("config.encoder.weights is empty; it may be 'imagenet' or a Keras file")
    _check_images(config)
    if jax.process_count() > 1:
        raise ConfigError("this version trains and evaluates on the devices of one process")


def _check_images(config: ConfigDict) -> None:
    """Raises ConfigError for pixels that training can't make, or features that can't be kept."""
    dataset = config.dataset
    try:
        Augmentation(dataset.crop_area, dataset.flip)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not is_cached(config):
        return
    _choose(feature_cache.DTYPES, config.encoder.cache, "encoder.cache")
    if not is_frozen(config):
        raise ConfigError(
            "config.encoder.cache keeps features of a frozen encoder, and config.encoder.frozen is "
            "False: set --config.encoder.cache= to train the encoder"
        )
    views, augments = config.encoder.cache_views, dataset.crop_area < 1 or dataset.flip
    if views < 1 or (views > 1) != augments:
        raise ConfigError(
            f"config.encoder.cache_views={views} and config.dataset.crop_area={dataset.crop_area}, "
            f"flip={dataset.flip} do not fit: of 1 view, features are of whole images; of several, "
            "the others are crops or flips; without a cache (--config.encoder.cache=) each step "
            "draws its own"
        )
    if not dataset.cache_dir:
        raise ConfigError("config.encoder.cache keeps features in config.dataset.cache_dir: set it")


def check_decoding(decoding: ConfigDict, positions: int) -> None:
    """Raises ConfigError for a search that a decoder with so many positions can't make."""
    if decoding.num_beams < 1:
        raise ConfigError(f"config.decoding.num_beams={decoding.num_beams} must be 1 or more")
    if not 2 <= decoding.max_length <= positions + 1:
        raise ConfigError(
            f"config.decoding.max_length={decoding.max_length} must lie in 2 to {positions + 1}, "
            f"one more than the dataset.max_length={positions} that the model is made for"
        )


def has_facts(config: ConfigDict) -> bool:
    """Whether the dataset's captions can be checked for truth."""
    return config.dataset.name == "shapes"


def scorers(config: ConfigDict) -> tuple[Scorer, ...]:
    """Metrics of a dataset beside the COCO scores: for `shapes`, whether captions are true."""
    return (facts.caption_metrics,) if has_facts(config) else ()


def compilation_cache(directory: str) -> None:
    """Has JAX keep compiled programs in `directory` for the next start; "" keeps none."""
    if directory:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(directory))


def encoder(config: ConfigDict) -> nn.Module:
    """The module of the config's encoder section."""
    encoders = {"patch": PatchEncoder, "conv": ConvEncoder, "mobilenet_v2": MobileNetV2}
    fields = {n: v for n, v in config.encoder.items() if n not in TRAINING_FIELDS}
    return _make(encoders, fields, "encoder", _choose(DTYPES, config.dtype, "dtype"))


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
    adapter = Adapter(**config.adapter, dtype=dtype) if "adapter" in config else None
    fields = {**config.decoder, "head_dim": config.decoder.head_dim or None}
    del fields["smart_bias"]
    if not hasattr(nn, fields["activation"]):
        raise ConfigError(
            f"config.decoder.activation={fields['activation']!r} is not in flax.linen"
        )
    decoder = _make(
        {"transformer": TransformerDecoder},
        fields,
        "decoder",
        dtype,
        vocab_size=tokenizer.vocab_size,
        # Positions: bos and the words of the longest caption.
        max_length=config.dataset.max_length,
        banned=tokenizer.banned_ids,
        output_bias=None if output_bias is None else tuple(output_bias),
    )
    return Captioner(encoder(config), decoder, adapter)


def is_frozen(config: ConfigDict) -> bool:
    """Whether training leaves the encoder as it is."""
    return config.encoder.get("frozen", False)


def is_cached(config: ConfigDict) -> bool:
    """Whether training reads the encoder's features, computed once."""
    return bool(config.encoder.get("cache", ""))


def is_pretrained(config: ConfigDict) -> bool:
    """Whether the encoder starts from weights of a file."""
    return "weights" in config.encoder


def pretrained_encoder(config: ConfigDict) -> Variables:
    """The variables that a pretrained encoder starts from, NumPy.

    Raises:
      WeightsError: they can't be had, or do not fit.
    """
    return load_mobilenet_v2(encoder(config), config.encoder.weights, config.dataset.image_size)


def _make(options: dict, fields: dict, name: str, dtype: Any, **more: Any) -> nn.Module:
    """The module that a section names, of the section's other fields."""
    kind = fields.pop("name")
    module = _choose(options, kind, f"{name}.name")
    unknown = sorted(fields.keys() - {field.name for field in dataclasses.fields(module)})
    if unknown:
        raise ConfigError(
            f"config.{name} has the name {kind!r} and fields of another {name}: "
            f"{', '.join(unknown)}. Write a config with config.{name} = "
            f"base.{kind}_{name}()"
        )
    return module(**fields, **more, dtype=dtype)


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
