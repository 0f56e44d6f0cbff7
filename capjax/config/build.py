"""From a config to the parts that it names."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from capjax.config.errors import ConfigError
from capjax.config.fields import part_of
from capjax.config.questions import decoder_weights, encoder_stage, is_pretrained
from capjax.config.sections import RunFields
from capjax.data.dataset import ImageScorer, Scorer
from capjax.data.images import Resize
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import BeamSearch
from capjax.evaluate.scoring import Metric
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner, Variables
from capjax.parts import METRICS
from capjax.parts.check import fault, fields_of, given_fields
from capjax.parts.registry import PartError
from capjax.pretrained.captioners.gpt2 import read_gpt2
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.weights import WeightsError
from capjax.pretrained.word_vectors import WordVectors, load_word_vectors
from capjax.train.checkpoint import Checkpoints
from capjax.train.objective import Objective
from capjax.train.optimizer import Optimizer
from capjax.train.scheduled_sampling import own_words_schedule

COMPILATION_CACHE = "~/.cache/capjax/xla"
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_EARLY_STOPPING = {"true": True, "false": False, "never": "never"}


def scorers(config: ConfigDict) -> tuple[Scorer, ...]:
    """The scorers of a whole split beside the COCO scores: the dataset's own, and `metrics`."""
    own = part_of(config, "dataset").scorers
    return (*own, *(Metric(name, metric(name)) for name in config.evaluation.metrics))


def image_scorers(config: ConfigDict) -> tuple[ImageScorer, ...]:
    """The scorers of single images beside the COCO scores."""
    return part_of(config, "dataset").image_scorers


def metric(name: str) -> Any:
    """A metric of `evaluation.metrics`.

    Raises:
      ConfigError: none is registered by that name.
    """
    try:
        return METRICS.get(name)
    except PartError as error:
        raise ConfigError(f"config.evaluation.metrics has {name!r}: {error}") from error


def compilation_cache(directory: str) -> None:
    """Has JAX keep compiled programs in `directory` for the next start; "" keeps none."""
    if directory:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(directory))


def resize(dataset: ConfigDict) -> Resize:
    """What makes squares of images, of the dataset section.

    Raises:
      ConfigError: a field is out of its range.
    """
    try:
        return Resize(
            dataset.image_size,
            dataset.resize_to,
            dataset.keep_aspect,
            dataset.interpolation,
            dataset.antialias,
            dataset.round_crop,
        )
    except ValueError as error:
        raise ConfigError(f"config.dataset: {error}") from error


def encoder(config: ConfigDict) -> nn.Module:
    """The module of the config's encoder section."""
    return _make(config, "encoder", part_of(config, "encoder"), {"dtype": _dtype(config)})


def _dtype(config: ConfigDict) -> Any:
    """The type that the model computes in."""
    if message := fault(fields_of(RunFields)["dtype"].type, config.dtype):
        raise ConfigError(f"config.dtype={config.dtype!r} {message}")
    return _DTYPES[config.dtype]


def captioner(
    config: ConfigDict, tokenizer: Tokenizer, output_bias: Sequence[float] | None = None
) -> Captioner:
    """The model of the config's encoder, adapter and decoder sections.

    Args:
      config: the whole config.
      tokenizer: its vocabulary sizes the decoder; its special ids are banned.
      output_bias: start of the output bias of a new model.
    """
    more: dict[str, Any] = {"banned": tokenizer.banned_ids}
    if output_bias is not None:
        more["output_bias"] = tuple(output_bias)
    return captioner_of(config, tokenizer.vocab_size, **more)


def captioner_of(config: ConfigDict, vocab_size: int, **more: Any) -> Captioner:
    """`captioner` for a vocabulary of which the size is known.

    Raises:
      ConfigError: there is no such encoder or decoder, a field is another's or missing, or fields
        do not fit each other.
    """
    dtype = {"dtype": _dtype(config)}
    adapter = _make(config, "adapter", Adapter, dtype) if "adapter" in config else None
    # Positions: bos and the words of the longest caption.
    given = {**dtype, "vocab_size": vocab_size, "max_length": config.dataset.max_length, **more}
    decoder = _make(config, "decoder", part_of(config, "decoder"), given)
    return Captioner(encoder(config), decoder, adapter)


def _make(
    config: ConfigDict, section: str, part: type[nn.Module], given: dict[str, Any]
) -> nn.Module:
    """The module of a section; of `given` it takes what it has fields for."""
    known = fields_of(part)
    training = fields_of(part.training)
    fields = {n: v for n, v in config[section].items() if n != "name" and n not in training}
    unknown = sorted(fields.keys() - known.keys())
    missing = sorted(n for n in known.keys() - fields.keys() if known[n].required)
    if unknown or missing:
        wrong = "has fields of another:" if unknown else "lacks fields:"
        raise ConfigError(
            f"config.{section} of the name {config[section].get('name', section)!r} {wrong} "
            f"{', '.join(unknown or missing)}. configs/base.py has a function for each {section}"
        )
    named = given_fields(part)
    try:
        return part(**fields, **{name: value for name, value in given.items() if name in named})
    except ValueError as error:
        raise ConfigError(f"config.{section}.{error}") from error


def shapes(config: ConfigDict, model: Captioner) -> Variables:
    """The variables of the config's model, without values.

    Raises:
      ConfigError: fields do not fit each other or the images.
    """
    shape = resize(config.dataset).shape
    try:
        return jax.eval_shape(lambda: model.init_variables(jax.random.key(config.seed), shape))
    except ValueError as error:
        raise ConfigError(f"this config makes no model: {error}") from error


def frozen_parts(config: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What training leaves as it is, and what of that it trains: see `split_frozen`."""
    freeze = ("encoder",) if is_pretrained(config) else ()
    if config.word_vectors.frozen:
        freeze = (*freeze, "decoder/tokens")
    stages = config.encoder.get("trainable", ())
    names = (part for stage in stages for part in encoder_stage(config, stage))
    thaw = ("encoder",) if "all" in stages else tuple(f"encoder/{name}" for name in names)
    if config.decoder.get("frozen"):
        freeze = (*freeze, "decoder")
        decoder = captioner_of(config, vocab_size=1).decoder
        thaw = (*thaw, *(f"decoder/{part}" for part in decoder.unpublished))
    return freeze, thaw


def objective(config: ConfigDict) -> Objective:
    """The objective that training minimises."""
    part = part_of(config, "objective")
    # Fields that configs have had outside of the section since before there was a choice.
    given = {
        "label_smoothing": config.label_smoothing,
        "attention_penalty": config.attention_penalty,
        "own_words": own_words_schedule(**config.scheduled_sampling),
        **config.hard_attention,
    }
    fields = {name: value for name, value in config.objective.items() if name != "name"}
    named = given_fields(part)
    return part(**fields, **{name: value for name, value in given.items() if name in named})


def pretrained_encoder(config: ConfigDict) -> Variables:
    """The variables that a pretrained encoder starts from, NumPy.

    Raises:
      WeightsError: they can't be had, or do not fit.
    """
    return load_encoder(encoder(config), config.encoder.weights, config.dataset.image_size)


def pretrained_decoder(config: ConfigDict) -> dict[str, Any]:
    """The parameters that GPT-2 starts from, NumPy; without those that attend to an image.

    Raises:
      WeightsError: they can't be had, or are another GPT-2's; says which fields differ.
    """
    source = decoder_weights(config)
    fields, params = read_gpt2(source)
    section = config.decoder
    wrong = [
        f"config.decoder.{name}={section[name]}, where {source} has {value}"
        for name, value in fields.items()
        if name in section and section[name] != value
    ]
    if wrong:
        raise WeightsError(f"{'; '.join(wrong)}. A config takes them by base.use_gpt2(config, ...)")
    return params


def word_vectors(config: ConfigDict, tokenizer: Tokenizer, width: int) -> WordVectors:
    """Pretrained vectors of the tokenizer's words.

    Raises:
      WeightsError: the file can't be read, or has vectors of another width.
    """
    words = [tokenizer.word(token) for token in range(tokenizer.vocab_size)]
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    known = [None if token in special else word for token, word in enumerate(words)]
    return load_word_vectors(os.path.expanduser(config.word_vectors.file), known, width)


def log_frequencies(counts: np.ndarray) -> np.ndarray:
    """Log shares [V] of token counts [V]; a token never seen counts as seen once."""
    return np.log(np.maximum(counts, 1) / counts.sum())


def beam_search(decoding: ConfigDict) -> BeamSearch:
    """The decoding section as a method."""
    stopping = _EARLY_STOPPING[decoding.early_stopping]
    return BeamSearch(**{**decoding, "early_stopping": stopping})


def schedule(config: ConfigDict) -> optax.Schedule:
    """Step -> learning rate."""
    return Optimizer(**config.optimizer).schedule_of(config.num_steps)


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer section, on the config's schedule."""
    return Optimizer(**config.optimizer).transformation(config.num_steps)


def checkpoints(directory: str, config: ConfigDict, *, read_only: bool = False) -> Checkpoints:
    """The checkpoints of a workdir, ranked by the early-stopping section's metric."""
    section = config.early_stopping
    return Checkpoints(
        os.path.join(directory, "checkpoints"), section.metric, section.mode, read_only=read_only
    )
