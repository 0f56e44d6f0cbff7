"""From a config to the parts that it names."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from capjax.data.images import Resize
from capjax.data.shapes import facts
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import BeamSearch
from capjax.evaluate.scoring import ImageScorer, Scorer
from capjax.files.errors import ReportedError
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner, Variables
from capjax.models.decoders.bahdanau import BahdanauDecoder
from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders import inception_v3
from capjax.models.encoders.conv import ConvEncoder
from capjax.models.encoders.efficientnet_b0 import EfficientNetB0
from capjax.models.encoders.inception_v3 import InceptionV3
from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.models.encoders.patch import PatchEncoder
from capjax.models.encoders.resnet import ResNet
from capjax.models.encoders.vit import ViT
from capjax.pretrained.captioners.gpt2 import read_gpt2
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.weights import WeightsError
from capjax.pretrained.word_vectors import WordVectors, load_word_vectors
from capjax.train import optimizer as optimizers
from capjax.train.checkpoint import Checkpoints
from capjax.train.objective import Objective
from capjax.train.scheduled_sampling import own_words_schedule

COMPILATION_CACHE = "~/.cache/capjax/xla"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Encoders with published weights.
PRETRAINED = {
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "efficientnet_b0": EfficientNetB0,
    "inception_v3": InceptionV3,
    "resnet": ResNet,
    "vit": ViT,
}
# Of a captioner: the names that its parameters begin with.
PARTS = ("encoder", "adapter", "decoder")
# What training makes of an encoder, and its module does not know.
TRAINING_FIELDS = ("weights", "trainable", "cache", "cache_views")
# The same of decoders, by name.
DECODER_TRAINING_FIELDS = {
    "transformer": ("smart_bias",),
    "bahdanau": ("smart_bias",),
    "gpt2": ("weights", "frozen"),
}
# Of a block of GPT-2, what attends to the image, which its own weights do not have.
_CROSS = ("cross_attention", "norms_1")
EARLY_STOPPING = {"true": True, "false": False, "never": "never"}


class ConfigError(ReportedError, ValueError):
    """A config that names no model, or one that can't be; the message names the field."""


def choose(options: dict, value: str, field: str):
    """The option of that name; raises ConfigError naming the field where there is none."""
    if value not in options:
        raise ConfigError(f"config.{field}={value!r}; it may be {', '.join(map(repr, options))}")
    return options[value]


def has_facts(config: ConfigDict) -> bool:
    """Whether the dataset's captions can be checked for truth."""
    return config.dataset.name == "shapes"


def scorers(config: ConfigDict) -> tuple[Scorer, ...]:
    """Metrics of a dataset beside the COCO scores: for `shapes`, whether captions are true."""
    return (facts.caption_metrics,) if has_facts(config) else ()


def image_scorers(config: ConfigDict) -> tuple[ImageScorer, ...]:
    """The same of single images."""
    return (facts.image_metrics,) if has_facts(config) else ()


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


def encoder_fields(config: ConfigDict) -> dict[str, Any]:
    """The encoder's name and the fields of its module."""
    return {n: v for n, v in config.encoder.items() if n not in TRAINING_FIELDS}


def encoder(config: ConfigDict) -> nn.Module:
    """The module of the config's encoder section."""
    encoders = {"patch": PatchEncoder, "conv": ConvEncoder, **PRETRAINED}
    fields = encoder_fields(config)
    return _make(encoders, fields, "encoder", choose(DTYPES, config.dtype, "dtype"))


def captioner(
    config: ConfigDict, tokenizer: Tokenizer, output_bias: Sequence[float] | None = None
) -> Captioner:
    """The model of the config's encoder and decoder sections.

    Args:
      config: the whole config.
      tokenizer: its vocabulary sizes the decoder; its special ids are banned.
      output_bias: where the output bias starts in a new model.
    """
    more = {"banned": tokenizer.banned_ids}
    if output_bias is not None:
        more["output_bias"] = tuple(output_bias)
    return captioner_of(config, tokenizer.vocab_size, **more)


def captioner_of(config: ConfigDict, vocab_size: int, **more: Any) -> Captioner:
    """`captioner` for a vocabulary of which the size is known.

    Raises:
      ConfigError: there is no such encoder, adapter or decoder, or a field is another's or missing.
    """
    dtype = choose(DTYPES, config.dtype, "dtype")
    adapter = None
    if "adapter" in config:
        if config.adapter.activation:
            _check_activation(config.adapter.activation, "adapter")
        adapter = _make(
            {"adapter": Adapter}, {"name": "adapter", **config.adapter}, "adapter", dtype
        )
    decoders = {
        "transformer": TransformerDecoder,
        "bahdanau": BahdanauDecoder,
        "gpt2": GPT2Decoder,
    }
    training = DECODER_TRAINING_FIELDS.get(config.decoder.name, ())
    fields = {name: value for name, value in config.decoder.items() if name not in training}
    more["vocab_size"] = vocab_size
    if config.decoder.name == "transformer":
        # Positions: bos and the words of the longest caption.
        more["max_length"] = config.dataset.max_length
        fields["head_dim"] = fields.get("head_dim") or None
    if config.decoder.name in ("transformer", "gpt2"):
        _check_activation(config.decoder.get("activation", "gelu"), "decoder")
    decoder = _make(decoders, fields, "decoder", dtype, **more)
    return Captioner(encoder(config), decoder, adapter)


def _check_activation(name: str, section: str) -> None:
    """Raises ConfigError for what is no function of numbers, of any shape, in flax.linen."""
    array = jax.ShapeDtypeStruct((2,), jnp.float32)
    try:
        if jax.eval_shape(getattr(nn, name), array) == array:
            return
    except (AttributeError, TypeError, ValueError):  # No function, or one of something else.
        pass
    raise ConfigError(f"config.{section}.activation={name!r} is no activation of flax.linen")


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


def is_frozen(config: ConfigDict) -> bool:
    """Whether training leaves the encoder as it is."""
    return is_pretrained(config) and not config.encoder.trainable


def frozen_parts(config: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What training leaves as it is, and what of that it trains: see `split_frozen`."""
    freeze = ("encoder",) if is_pretrained(config) else ()
    if config.word_vectors.frozen:
        freeze = (*freeze, "decoder/tokens")
    stages = config.encoder.get("trainable", ())
    names = (part for stage in stages for part in encoder_parts(config, stage))
    thaw = ("encoder",) if "all" in stages else tuple(f"encoder/{name}" for name in names)
    if config.decoder.get("frozen"):
        freeze = (*freeze, "decoder")
        blocks = [f"decoder/blocks_{number}" for number in range(config.decoder.num_layers)]
        thaw = (*thaw, *(f"{block}/{part}" for block in blocks for part in _CROSS))
    return freeze, thaw


def encoder_parts(config: ConfigDict, stage: str) -> tuple[str, ...]:
    """The beginnings of the names of the parts that one of `encoder.trainable` means."""
    return encoder_stages(config).get(stage, (stage,))


def encoder_stages(config: ConfigDict) -> Mapping[str, tuple[str, ...]]:
    """Parts by the name of their stage, of an encoder whose parts' names do not begin with it."""
    return inception_v3.STAGES if config.encoder.name == "inception_v3" else {}


def init_parts(config: ConfigDict) -> tuple[str, ...]:
    """The parts of the model whose parameters come from the run `init_from`; none without one."""
    if not config.init_from:
        return ()
    if "all" not in config.init_parts:
        return config.init_parts
    return tuple(part for part in PARTS if part != "adapter" or "adapter" in config)


def decoder_weights(config: ConfigDict) -> str:
    """The GPT-2 that the decoder and its tokenizer start from; "" without, or with a run's."""
    return "" if "decoder" in init_parts(config) else config.decoder.get("weights", "")


def keeps_tokenizer(config: ConfigDict) -> bool:
    """Whether the tokenizer is that of the run `init_from`, whose decoder knows no other words."""
    return "decoder" in init_parts(config) and config.init_tokenizer


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


def _make(options: dict, fields: dict, name: str, dtype: Any, **more: Any) -> nn.Module:
    """The module that a section names, of the section's other fields."""
    kind = fields.pop("name")
    module = choose(options, kind, f"{name}.name")
    known = dataclasses.fields(module)
    unknown = sorted(fields.keys() - {field.name for field in known})
    needed = {field.name for field in known if field.default is dataclasses.MISSING}
    missing = sorted(needed - fields.keys() - more.keys())
    if unknown or missing:
        function = kind if kind in PRETRAINED else f"{kind}_{name}"
        wrong = f"and fields of another {name}:" if unknown else "and lacks fields:"
        raise ConfigError(
            f"config.{name} has the name {kind!r} {wrong} {', '.join(unknown or missing)}. Write "
            f"a config with config.{name} = base.{function}()"
        )
    return module(**fields, **more, dtype=dtype)


def log_frequencies(counts: np.ndarray) -> np.ndarray:
    """Log shares [V] of token counts [V]; a token never seen counts as seen once."""
    return np.log(np.maximum(counts, 1) / counts.sum())


def beam_search(decoding: ConfigDict) -> BeamSearch:
    """The decoding section as a method."""
    stopping = choose(EARLY_STOPPING, decoding.early_stopping, "decoding.early_stopping")
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
        encoder_start=section.encoder_start_step,
    )


def checkpoints(directory: str, config: ConfigDict, *, read_only: bool = False) -> Checkpoints:
    """The checkpoints of a workdir, ranked by the early-stopping section's metric."""
    section = config.early_stopping
    return Checkpoints(
        os.path.join(directory, "checkpoints"), section.metric, section.mode, read_only=read_only
    )
