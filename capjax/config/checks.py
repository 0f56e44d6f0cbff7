"""What a config says that can't be, found before hours are spent on it."""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from operator import getitem
from typing import Any

import jax
from ml_collections import ConfigDict

from capjax.config import build
from capjax.config.build import ConfigError, choose
from capjax.config.fields import check_fields
from capjax.data import feature_cache
from capjax.data.augment import Augmentation
from capjax.metrics import coco
from capjax.models.captioner import is_part
from capjax.train.scheduled_sampling import own_words_schedule


def check(config: ConfigDict) -> None:
    """Raises ConfigError for what would otherwise be found out hours later, naming the field."""
    check_fields(config)
    if not 0 <= config.optimizer.warmup_steps < config.num_steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps={config.optimizer.warmup_steps} must be below "
            f"config.num_steps={config.num_steps}"
        )
    # An encoder or a decoder that there is not, or with fields of another.
    build.captioner_of(config, vocab_size=1)
    check_decoding(config.decoding, config)
    own = build.dataset_class(config.dataset.name).metrics
    metrics = ("loss", "accuracy", *coco.METRICS, *own)
    choose(dict.fromkeys(metrics), config.early_stopping.metric, "early_stopping.metric")
    _check_images(config)
    _check_objective(config)


def check_devices(config: ConfigDict, *fields: str) -> None:
    """Raises ConfigError where a batch does not divide over the devices of all processes.

    Args:
      config: the whole config.
      fields: of the batches that will be made: "batch_size", "evaluation.batch_size".
    """
    devices, count = jax.device_count(), jax.process_count()
    if devices != count * jax.local_device_count():
        raise ConfigError(
            f"this process has {jax.local_device_count()} of {devices} devices, and there are "
            f"{count} processes: each must have as many as the others"
        )
    where = f"{devices} devices" + (f" of {count} processes" if count > 1 else "")
    for field in fields:
        size = functools.reduce(getitem, field.split("."), config)
        unit, by = devices, where
        if field == "batch_size" and config.accumulate > 1:
            unit = devices * config.accumulate
            by = f"{where} times config.accumulate={config.accumulate}"
        if size % unit:
            near = [str(size // unit * unit)] if size > unit else []
            near = " or ".join([*near, str((size // unit + 1) * unit)])
            raise ConfigError(
                f"config.{field}={size} must be a multiple of {unit}, the {by}: {near} would do"
            )


def _check_objective(config: ConfigDict) -> None:
    """Raises ConfigError for an objective that the decoder can't have."""
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
    if config.decoder.name == "gpt2":
        _check_gpt2(config)
    _check_start(config)


def _check_gpt2(config: ConfigDict) -> None:
    """Raises ConfigError for a GPT-2 that can't be, or that is too short for the captions."""
    decoder = config.decoder
    if decoder.width % decoder.num_heads:
        raise ConfigError(
            f"config.decoder.num_heads={decoder.num_heads} must divide "
            f"config.decoder.width={decoder.width}"
        )
    if decoder.frozen and not (decoder.weights or "decoder" in build.init_parts(config)):
        raise ConfigError(
            "config.decoder.frozen would leave GPT-2's layers at chance: give config.decoder."
            "weights or config.init_from"
        )
    if decoder.max_length < config.dataset.max_length:
        raise ConfigError(
            f"config.decoder.max_length={decoder.max_length} must be at least "
            f"config.dataset.max_length={config.dataset.max_length}"
        )


def _check_start(config: ConfigDict) -> None:
    """Raises ConfigError for parameters that can't start or stay as the config says."""
    _check_init_parts(config)
    file, frozen = config.word_vectors.file, config.word_vectors.frozen
    from_run = "decoder" in build.init_parts(config)
    if file and from_run:
        raise ConfigError(
            "config.word_vectors.file and config.init_from both say what the embeddings start "
            "from: give one of them, or config.init_parts without 'decoder'"
        )
    if file and not os.path.isfile(os.path.expanduser(file)):
        raise ConfigError(f"config.word_vectors.file={file!r}: there is no such file")
    if frozen and not (file or from_run):
        raise ConfigError("config.word_vectors.frozen needs a config.word_vectors.file")
    if frozen and from_run and not config.init_tokenizer:
        raise ConfigError(
            "config.word_vectors.frozen would leave the embeddings of new words at chance: set "
            "config.init_tokenizer=True"
        )
    if frozen and config.decoder.get("tie_embeddings"):
        raise ConfigError(
            "config.word_vectors.frozen would keep the output layer from learning: set "
            "config.decoder.tie_embeddings=False"
        )
    if frozen and config.decoder.name == "gpt2":
        raise ConfigError(
            "config.word_vectors.frozen would keep the output layer of GPT-2, which is the "
            "embedding, from learning: set config.word_vectors.frozen=False"
        )


def _check_init_parts(config: ConfigDict) -> None:
    """Raises ConfigError for parts that no run has, or that are asked of no run."""
    parts, known = config.init_parts, ("all", *build.PARTS)
    for part in parts:
        choose(dict.fromkeys(known), part, "init_parts")
    if not parts or ("all" in parts and len(parts) > 1):
        raise ConfigError(
            f"config.init_parts={parts} must be ('all',), or some of {', '.join(build.PARTS)}"
        )
    if "adapter" in parts and "adapter" not in config:
        raise ConfigError("config.init_parts has 'adapter', and this config has no adapter")
    if parts != ("all",) and not config.init_from:
        raise ConfigError(f"config.init_parts={parts} needs a config.init_from")
    if not config.init_tokenizer and "decoder" not in build.init_parts(config):
        raise ConfigError(
            "config.init_tokenizer=False needs a config.init_from, and config.init_parts with "
            "'decoder': without, the words are those of these data anyway"
        )


def _check_images(config: ConfigDict) -> None:
    """Raises ConfigError for pixels that training can't make, or features that can't be kept."""
    dataset = config.dataset
    build.resize(dataset)
    try:
        Augmentation(dataset.crop_area, dataset.flip)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not build.is_cached(config):
        return
    choose(feature_cache.DTYPES, config.encoder.cache, "encoder.cache")
    if not build.is_frozen(config):
        raise ConfigError(
            "config.encoder.cache keeps features of a frozen encoder, and config.encoder.trainable "
            f"is {config.encoder.trainable!r}: set --config.encoder.cache= to train the encoder"
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
    # A recurrent decoder has no positions, and may go on.
    sections = {"transformer": "dataset", "gpt2": "decoder"}
    section = sections.get(config.decoder.name)
    if section and decoding.max_length > (positions := config[section].max_length) + 1:
        raise ConfigError(
            f"config.decoding.max_length={decoding.max_length} must lie in 2 to {positions + 1}, "
            f"one more than the {section}.max_length={positions} that the model is made for"
        )


def check_trainable(config: ConfigDict, params: Mapping[str, Any]) -> None:
    """Raises ConfigError for a stage that the encoder with parameters `params` does not have."""
    modules = sorted(params.get("encoder", {}))
    for stage in config.encoder.get("trainable", ()):
        parts = build.encoder_parts(config, stage)
        if stage != "all" and not any(is_part(m, part) for m in modules for part in parts):
            names = build.encoder_stages(config) or _blocks(modules)
            raise ConfigError(
                f"config.encoder.trainable has {stage!r}; it may have 'all', or the beginnings of "
                f"the names of this encoder's parts: {', '.join(names)}"
            )


def _blocks(modules: Sequence[str]) -> list[str]:
    """Names of parts, less what comes after a block's number, each once."""
    names = {re.match(r"\D*\d*", module).group().rstrip("_") for module in modules}
    return sorted(names, key=lambda name: (len(name), name))
