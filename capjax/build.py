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
from capjax.models.bahdanau_decoder import CHOICES as BAHDANAU_CHOICES
from capjax.models.bahdanau_decoder import BahdanauDecoder
from capjax.models.captioner import Captioner, Variables
from capjax.models.conv_encoder import ConvEncoder
from capjax.models.inception_v3 import InceptionV3
from capjax.models.mobilenet_v2 import MobileNetV2
from capjax.models.patch_encoder import PatchEncoder
from capjax.models.resnet import ResNet
from capjax.models.transformer_decoder import TransformerDecoder
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.word_vectors import WordVectors, load_word_vectors
from capjax.train import optimizer as optimizers
from capjax.train.checkpoint import Checkpoints
from capjax.train.objective import Objective
from capjax.train.scheduled_sampling import own_words_schedule

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
    check_decoding(config.decoding, config)
    _choose({"drop": 0, "cut": 0}, config.dataset.over_length, "dataset.over_length")
    _choose({"max": 0, "min": 0}, config.early_stopping.mode, "early_stopping.mode")
    metrics = ("loss", "accuracy", *coco.METRICS, *(facts.METRICS if has_facts(config) else ()))
    _choose(dict.fromkeys(metrics), config.early_stopping.metric, "early_stopping.metric")
    if is_pretrained(config) and not config.encoder.weights:
        raise ConfigError("config.encoder.weights is empty; it may be 'imagenet' or a file")
    _check_images(config)
    _check_objective(config)
    if jax.process_count() > 1:
        raise ConfigError("this version trains and evaluates on the devices of one process")


def _check_objective(config: ConfigDict) -> None:
    """Raises ConfigError for an objective that the decoder can't have."""
    _choose(dict.fromkeys(optimizers.SCHEDULES), config.optimizer.schedule, "optimizer.schedule")
    try:
        sampling = own_words_schedule(**config.scheduled_sampling)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
    if sampling is not None and config.decoder.name != "bahdanau":
        raise ConfigError(
            f"config.scheduled_sampling.kind={config.scheduled_sampling.kind!r} needs a recurrent "
            f"decoder, and config.decoder.name is {config.decoder.name!r}"
        )
    if config.attention_penalty and config.decoder.get("attention") == "none":
        raise ConfigError(
            f"config.attention_penalty={config.attention_penalty} needs a decoder with attention, "
            "and config.decoder.attention is 'none'"
        )
    if config.attention_penalty < 0:
        raise ConfigError(f"config.attention_penalty={config.attention_penalty} must be 0 or more")
    if config.decoder.name == "bahdanau":
        for field, choices in BAHDANAU_CHOICES.items():
            _choose(dict.fromkeys(choices), config.decoder[field], f"decoder.{field}")
        if not 0 <= config.decoder.expected_rate <= 1:
            raise ConfigError(
                f"config.decoder.expected_rate={config.decoder.expected_rate} must lie in 0 to 1"
            )
    _check_start(config)


def _check_start(config: ConfigDict) -> None:
    """Raises ConfigError for embeddings that can't start or stay as the config says."""
    file, frozen = config.word_vectors.file, config.word_vectors.frozen
    if file and config.init_from:
        raise ConfigError(
            "config.word_vectors.file and config.init_from both say what the embeddings start "
            "from: give one of them"
        )
    if file and not os.path.isfile(os.path.expanduser(file)):
        raise ConfigError(f"config.word_vectors.file={file}: there is no such file")
    if frozen and not (file or config.init_from):
        raise ConfigError("config.word_vectors.frozen needs a config.word_vectors.file")
    if frozen and config.decoder.get("tie_embeddings"):
        raise ConfigError(
            "config.word_vectors.frozen would keep the output layer from learning: set "
            "config.decoder.tie_embeddings=False"
        )


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


def check_decoding(decoding: ConfigDict, config: ConfigDict) -> None:
    """Raises ConfigError for a search that the config's decoder can't make."""
    if decoding.num_beams < 1:
        raise ConfigError(f"config.decoding.num_beams={decoding.num_beams} must be 1 or more")
    if decoding.max_length < 2:
        raise ConfigError(f"config.decoding.max_length={decoding.max_length} must be 2 or more")
    positions = config.dataset.max_length
    # A recurrent decoder has no positions, and may go on.
    if config.decoder.name == "transformer" and decoding.max_length > positions + 1:
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
    encoders = {
        "patch": PatchEncoder,
        "conv": ConvEncoder,
        "mobilenet_v2": MobileNetV2,
        "inception_v3": InceptionV3,
        "resnet": ResNet,
    }
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
    adapter = None
    if "adapter" in config:
        _check_activation(config.adapter.activation or "relu", "adapter")
        adapter = Adapter(**config.adapter, dtype=dtype)
    decoders = {"transformer": TransformerDecoder, "bahdanau": BahdanauDecoder}
    fields = {name: value for name, value in config.decoder.items() if name != "smart_bias"}
    more = {
        "vocab_size": tokenizer.vocab_size,
        "banned": tokenizer.banned_ids,
        "output_bias": None if output_bias is None else tuple(output_bias),
    }
    if config.decoder.name == "transformer":
        # Positions: bos and the words of the longest caption.
        more["max_length"] = config.dataset.max_length
        fields["head_dim"] = fields.get("head_dim") or None
        _check_activation(config.decoder.get("activation", "gelu"), "decoder")
    decoder = _make(decoders, fields, "decoder", dtype, **more)
    return Captioner(encoder(config), decoder, adapter)


def _check_activation(name: str, section: str) -> None:
    if not hasattr(nn, name):
        raise ConfigError(f"config.{section}.activation={name!r} is not in flax.linen")


def is_frozen(config: ConfigDict) -> bool:
    """Whether training leaves the encoder as it is."""
    return config.encoder.get("frozen", False)


def frozen_parts(config: ConfigDict) -> tuple[str, ...]:
    """The parts of the parameters that training leaves as they are."""
    parts = ("encoder",) if is_frozen(config) else ()
    return (*parts, "decoder/tokens") if config.word_vectors.frozen else parts


def draws_locations(config: ConfigDict) -> bool:
    """Whether training draws where the decoder looks, as hard attention does."""
    return config.decoder.get("attention") == "hard"


def objective(config: ConfigDict) -> Objective:
    """What training minimises."""
    return Objective(
        label_smoothing=config.label_smoothing,
        attention_penalty=config.attention_penalty,
        own_words=own_words_schedule(**config.scheduled_sampling),
        **config.hard_attention,
    )


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
    return load_encoder(encoder(config), config.encoder.weights, config.dataset.image_size)


def word_vectors(config: ConfigDict, tokenizer: Tokenizer, width: int) -> WordVectors:
    """Pretrained vectors of the tokenizer's words.

    Raises:
      WeightsError: the file can't be read, or has vectors of another width.
    """
    words = [tokenizer.word(token) for token in range(tokenizer.vocab_size)]
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    known = [None if token in special else word for token, word in enumerate(words)]
    return load_word_vectors(os.path.expanduser(config.word_vectors.file), known, width)


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
    section = config.optimizer
    return optimizers.learning_rate_schedule(
        section.learning_rate, section.warmup_steps, config.num_steps, section.schedule
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
        clip_value=section.clip_value,
        encoder_scale=(section.encoder_learning_rate or section.learning_rate)
        / section.learning_rate,
    )


def checkpoints(directory: str, config: ConfigDict, *, read_only: bool = False) -> Checkpoints:
    """The checkpoints of a workdir, ranked by the early-stopping section's metric."""
    section = config.early_stopping
    return Checkpoints(
        os.path.join(directory, "checkpoints"), section.metric, section.mode, read_only=read_only
    )
