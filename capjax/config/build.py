"""Builds the parts that a config names."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from capjax.config.errors import ConfigError
from capjax.config.fields import part_of
from capjax.config.questions import PARTS, decoder_weights, encoder_stage, has_lora, is_pretrained
from capjax.config.sections import DecodingFields, RunFields
from capjax.data.dataset import ImageScorer, Scorer
from capjax.data.resize import Resize
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.control import Control
from capjax.evaluate.methods import BeamSearch, Consensus, Method, Sampling
from capjax.evaluate.scoring import Metric
from capjax.metrics.reward import reward_name, reward_of
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner, Variables
from capjax.models.lora_fields import Lora
from capjax.parallel import devices, programs
from capjax.parts import METRICS
from capjax.parts.check import fault, fields_of, given_fields
from capjax.parts.registry import PartError
from capjax.pretrained.captioners.gpt2 import read_gpt2
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.word_vectors import WordVectors, load_word_vectors
from capjax.train.objective import Objective
from capjax.train.optimizer_fields import Optimizer
from capjax.train.scheduled_sampling import own_words_schedule

if TYPE_CHECKING:
    import optax

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_EARLY_STOPPING = {"true": True, "false": False, "never": "never"}
# Fields of the decoding section that are `BeamSearch`'s by name.
_MORE_OF_BEAMS = (
    *("num_captions", "length_normalization"),
    *("num_beam_groups", "diversity_penalty", "must_include"),
)


def scorers(config: ConfigDict) -> tuple[Scorer, ...]:
    """Scorers of a whole split besides COCO's: the dataset's and `evaluation.metrics`."""
    own = part_of(config, "dataset").scorers
    return (*own, *(Metric(name, metric(name)) for name in config.evaluation.metrics))


def image_scorers(config: ConfigDict) -> tuple[ImageScorer, ...]:
    """Scorers of single images besides the COCO scores."""
    return part_of(config, "dataset").image_scorers


def metric(name: str) -> Any:
    """Looks up a metric of `evaluation.metrics`.

    Raises:
      ConfigError: no metric is registered under that name.
    """
    try:
        return METRICS.get(name)
    except PartError as error:
        raise ConfigError(f"config.evaluation.metrics has {name!r}: {error}") from error


def resize(dataset: ConfigDict) -> Resize:
    """Builds the resize of the dataset section, which makes images square.

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
    """Builds the module of the config's encoder section."""
    return _make(config, "encoder", part_of(config, "encoder"), {"dtype": _dtype(config)})


def _dtype(config: ConfigDict) -> Any:
    """Returns the type that the model computes in."""
    if message := fault(fields_of(RunFields)["dtype"].type, config.dtype):
        raise ConfigError(f"config.dtype={config.dtype!r} {message}")
    return _DTYPES[config.dtype]


def captioner(
    config: ConfigDict, tokenizer: Tokenizer, output_bias: Sequence[float] | None = None
) -> Captioner:
    """Builds the model of the config's encoder, adapter and decoder sections.

    Args:
      config: the whole config.
      tokenizer: gives the decoder's vocabulary size and the banned special ids.
      output_bias: initial output bias of a new model, [V].
    """
    more: dict[str, Any] = {"banned": tokenizer.banned_ids}
    if output_bias is not None:
        more["output_bias"] = tuple(output_bias)
    return captioner_of(config, tokenizer.vocab_size, **more)


def captioner_of(config: ConfigDict, vocab_size: int, **more: Any) -> Captioner:
    """Builds the model for a vocabulary size.

    Raises:
      ConfigError: there is no such encoder or decoder, a field is unknown or missing, or fields
        do not fit together.
    """
    dtype = {"dtype": _dtype(config)}
    adapter = _make(config, "adapter", Adapter, dtype) if "adapter" in config else None
    part = part_of(config, "decoder")
    given = {**dtype, "vocab_size": vocab_size, **more}
    if "max_length" in given_fields(part):
        # The decoder's positions: bos and the words of the longest caption.
        given["max_length"] = config.dataset.max_length
    decoder = _make(config, "decoder", part, given)
    fused = config.fused_attention and devices.has_cudnn()
    return Captioner(encoder(config), decoder, adapter, fused=fused, lora=lora(config))


def lora(config: ConfigDict) -> Lora | None:
    """Builds the adapters of the config; None if it has none."""
    if not has_lora(config):
        return None
    return Lora(**{name: config.lora[name] for name in fields_of(Lora)})


def _make(
    config: ConfigDict, section: str, part: type[nn.Module], given: dict[str, Any]
) -> nn.Module:
    """Builds the module of a section; entries of `given` without a field are dropped."""
    known = fields_of(part)
    training = fields_of(part.training)
    fields = {n: v for n, v in config[section].items() if n != "name" and n not in training}
    unknown = sorted(fields.keys() - known.keys())
    missing = sorted(n for n in known.keys() - fields.keys() if known[n].required)
    if unknown or missing:
        wrong = "has unknown fields:" if unknown else "lacks fields:"
        raise ConfigError(
            f"config.{section} with name {config[section].get('name', section)!r} {wrong} "
            f"{', '.join(unknown or missing)}. configs/base.py has a function for each {section}"
        )
    named = given_fields(part)
    try:
        return part(**fields, **{name: value for name, value in given.items() if name in named})
    except ValueError as error:
        raise ConfigError(f"config.{section}.{error}") from error


def shapes(config: ConfigDict, model: Captioner) -> Variables:
    """Shapes and types of the variables of the config's model.

    Raises:
      ConfigError: fields do not fit together, or do not fit the images.
    """
    shape = resize(config.dataset).shape
    try:
        return programs.shapes_of(
            lambda: model.init_variables(jax.random.key(0), shape), made_from=(model, shape)
        )
    except ValueError as error:
        raise ConfigError(f"this config makes no model: {error}") from error


def frozen_parts(config: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prefixes of frozen parameters, and of exceptions that train; see `split_frozen`."""
    if has_lora(config):
        return PARTS, ()
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


def objective(config: ConfigDict, tokenizer: Tokenizer | None = None) -> Objective:
    """Builds the training objective; one that draws captions needs the tokenizer to do so.

    Raises:
      ValueError: fields do not fit together; its text starts with a field's name.
    """
    part = part_of(config, "objective")
    # These fields are older than the objective section and stay outside of it.
    given = {
        "label_smoothing": config.label_smoothing,
        "attention_penalty": config.attention_penalty,
        "own_words": own_words_schedule(**config.scheduled_sampling),
        "log_every": config.log_every,
        **config.hard_attention,
    }
    if tokenizer is not None:
        given |= {name: getattr(tokenizer, name) for name in ("bos_id", "eos_id", "pad_id")}
        given["prompt"] = tuple(tokenizer.encode(config.prompt))
    fields = {name: value for name, value in config.objective.items() if name != "name"}
    named = given_fields(part)
    return part(**fields, **{name: value for name, value in given.items() if name in named})


def pretrained_encoder(config: ConfigDict) -> Variables:
    """Loads the initial variables of a pretrained encoder, NumPy.

    Raises:
      WeightsError: the weights can't be loaded, or do not fit.
    """
    return load_encoder(encoder(config), config.encoder.weights, config.dataset.image_size)


def pretrained_decoder(config: ConfigDict) -> dict[str, Any]:
    """Loads the initial parameters of GPT-2, NumPy, without its attention to the image.

    Raises:
      WeightsError: the weights can't be loaded, or fields of the config differ from theirs.
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
        raise WeightsError(f"{'; '.join(wrong)}. base.use_gpt2(config, ...) sets these fields")
    return params


def word_vectors(config: ConfigDict, tokenizer: Tokenizer, width: int) -> WordVectors:
    """Loads pretrained vectors of the tokenizer's words.

    Raises:
      WeightsError: the file can't be read, or its vectors have another width.
    """
    words = [tokenizer.word(token) for token in range(tokenizer.vocab_size)]
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    known = [None if token in special else word for token, word in enumerate(words)]
    return load_word_vectors(os.path.expanduser(config.word_vectors.file), known, width)


def log_frequencies(counts: np.ndarray) -> np.ndarray:
    """Log relative frequencies [V] of token counts [V]; a count of 0 is taken as 1."""
    return np.log(np.maximum(counts, 1) / counts.sum())


def decoding_method(decoding: ConfigDict) -> Method:
    """Builds the decoding method of the decoding section.

    Raises:
      ConfigError: a reward of consensus is unknown, or has no weight.
    """
    if decoding.method == "beam":
        return beam_search(decoding)
    if decoding.method == "sample":
        return _sampling(decoding, decoding.num_captions)
    if decoding.candidates == "beam":
        every = {"num_captions": decoding.num_beams}
        candidates: BeamSearch | Sampling = dataclasses.replace(beam_search(decoding), **every)
    else:
        candidates = _sampling(decoding, decoding.num_samples)
    rewards = decoding.rewards, decoding.reward_weights
    try:
        reward = reward_of(*rewards)
    except ValueError as error:
        raise ConfigError(f"config.decoding.{error}") from error
    return Consensus(candidates, reward, reward_name(*rewards), decoding.num_captions)


def beam_search(decoding: ConfigDict) -> BeamSearch:
    """Builds the beam search of the decoding section, also where its method is another."""
    if message := fault(fields_of(DecodingFields)["early_stopping"].type, decoding.early_stopping):
        raise ConfigError(f"config.decoding.early_stopping={decoding.early_stopping!r} {message}")
    stopping = _EARLY_STOPPING[decoding.early_stopping]
    more = {name: decoding[name] for name in _MORE_OF_BEAMS}
    return BeamSearch(
        decoding.num_beams,
        decoding.length_penalty,
        stopping,
        decoding.max_length,
        **more,
        control=_control(decoding),
    )


def _sampling(decoding: ConfigDict, count: int) -> Sampling:
    return Sampling(
        decoding.temperature,
        decoding.max_length,
        decoding.seed,
        decoding.top_k or None,
        decoding.top_p if decoding.top_p < 1 else None,
        decoding.min_p or None,
        decoding.typical_p if decoding.typical_p < 1 else None,
        count,
        _control(decoding),
    )


def _control(decoding: ConfigDict) -> Control:
    return Control(**{name: decoding[name] for name in fields_of(Control)})


def schedule(config: ConfigDict) -> "optax.Schedule":
    """Builds the schedule: step -> learning rate."""
    return Optimizer(**config.optimizer).schedule_of(config.num_steps)


def optimizer(config: ConfigDict) -> "optax.GradientTransformation":
    """Builds the optimizer of a config."""
    return Optimizer(**config.optimizer).transformation(config.num_steps)
