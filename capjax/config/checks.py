"""Checks that the fields of a config fit together, before training starts."""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from operator import getitem
from typing import Any

import jax
from ml_collections import ConfigDict

from capjax.config import build, questions
from capjax.config.errors import ConfigError
from capjax.config.fields import check_fields, part_of
from capjax.config.lora_checks import check_lora
from capjax.config.sections import DecodingFields
from capjax.data.augment import Augmentation
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.control import SettingError
from capjax.evaluate.methods import Method
from capjax.metrics import coco
from capjax.metrics.direction import TEACHER_FORCED, contradicts, direction
from capjax.models.captioner import is_part
from capjax.models.contract import Decoder
from capjax.parts.check import fault, fields_of
from capjax.train.objective import Objective
from capjax.train.wandb_log import is_installed

# Images of a batch that is never called too large, and times that it may have each of a split.
_MOST_OF_ANY, _MOST_TIMES = 1024, 10
# Fields of the decoding section that samples can't have, with the values that change nothing.
OF_BEAMS = {"num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "must_include": ()}


def check(config: ConfigDict) -> None:
    """Raises ConfigError, naming the field, where a config can't be trained."""
    check_fields(config)
    if not 0 <= config.optimizer.warmup_steps < config.num_steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps={config.optimizer.warmup_steps} must be below "
            f"config.num_steps={config.num_steps}: "
            f"--config.optimizer.warmup_steps={config.num_steps // 10} would do"
        )
    if config.wandb_project and not is_installed():
        raise ConfigError(
            f"config.wandb_project={config.wandb_project!r} needs the package wandb: "
            "pip install wandb"
        )
    decoder = build.captioner_of(config, vocab_size=1).decoder
    check_decoding(config.decoding, config)
    _check_metric(config)
    _check_images(config)
    fitting_objective(config, decoder)
    if not config.decoding.prompt.startswith(config.prompt):
        raise ConfigError(
            f"config.prompt={config.prompt!r} is before every caption in training, and "
            f"config.decoding.prompt={config.decoding.prompt!r} must begin with it: "
            f"--config.decoding.prompt={config.prompt!r} would do"
        )
    _check_start(config, decoder)
    if (lora := build.lora(config)) is not None:
        check_lora(config, lora)
    elif config.lora.weights:
        raise ConfigError("config.lora.weights needs a config.lora.rank, that of its adapters")


def _check_metric(config: ConfigDict) -> None:
    """Raises ConfigError for an early-stopping metric that training can't choose by."""
    for name in config.evaluation.metrics:
        build.metric(name)
    own = part_of(config, "dataset").metrics
    # Not METEOR, which takes longer than all others.
    computed = (*TEACHER_FORCED, *coco.METRICS, *own, *config.evaluation.metrics)
    metric, mode = config.early_stopping.metric, config.early_stopping.mode
    if metric not in computed:
        raise ConfigError(
            f"config.early_stopping.metric={metric!r} must be one of "
            f"{', '.join(map(repr, computed))}: evaluations in training compute these"
        )
    if contradicts(metric, mode):
        better = "less" if direction(metric) == "min" else "more"
        raise ConfigError(
            f"config.early_stopping.mode={mode!r} would choose the worst checkpoint: of "
            f"config.early_stopping.metric={metric!r} {better} is better; "
            "--config.early_stopping.mode=auto knows it"
        )


def check_devices(config: ConfigDict, *fields: str) -> None:
    """Raises ConfigError if batch sizes, devices and processes do not divide evenly.

    Args:
      config: the whole config.
      fields: batch sizes to check: "batch_size", "evaluation.batch_size".
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


def check_batch(config: ConfigDict, field: str, images: int, name: str) -> None:
    """Raises ConfigError for a batch that has each image of a split many times.

    Args:
      config: the whole config.
      field: its field with the size of a batch.
      images: number of images in the split.
      name: of the split.
    """
    size = functools.reduce(getitem, field.split("."), config)
    most = max(_MOST_OF_ANY, _MOST_TIMES * images)
    if size > most:
        raise ConfigError(
            f"config.{field}={size} is far more than the {images} images of {name}: {most} or "
            "fewer would do"
        )


def fitting_objective(
    config: ConfigDict, decoder: Decoder, tokenizer: Tokenizer | None = None
) -> Objective:
    """Builds the objective; raises ConfigError where it does not fit the decoder."""
    try:
        objective = build.objective(config, tokenizer)
        if check_decoder := getattr(objective, "check_decoder", None):
            check_decoder(decoder)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
    kind = config.scheduled_sampling.kind
    if kind != "none" and not decoder.takes_own_words:
        raise ConfigError(
            f"config.scheduled_sampling.kind={kind!r} needs a recurrent decoder, and "
            f"config.decoder.name is {config.decoder.name!r}"
        )
    if config.attention_penalty and not decoder.has_attention:
        raise ConfigError(
            f"config.attention_penalty={config.attention_penalty} needs a decoder with attention, "
            "and config.decoder.attention is 'none'"
        )
    longest = decoder.longest_caption
    if longest is not None and longest < config.dataset.max_length:
        raise ConfigError(
            f"config.decoder.max_length={longest} must be at least "
            f"config.dataset.max_length={config.dataset.max_length}"
        )
    return objective


def _check_start(config: ConfigDict, decoder: Decoder) -> None:
    """Raises ConfigError for initial or frozen parameters that contradict each other."""
    _check_init_parts(config)
    file, frozen = config.word_vectors.file, config.word_vectors.frozen
    from_run = "decoder" in questions.init_parts(config)
    if config.decoder.get("frozen") and not (config.decoder.weights or from_run):
        raise ConfigError(
            "config.decoder.frozen would keep randomly initialised decoder layers: give "
            "config.decoder.weights or config.init_from"
        )
    if file and from_run:
        raise ConfigError(
            "config.word_vectors.file and config.init_from both initialise the embeddings: give "
            "one of them, or config.init_parts without 'decoder'"
        )
    if frozen and not (file or from_run):
        raise ConfigError("config.word_vectors.frozen needs a config.word_vectors.file")
    if frozen and from_run and not config.init_tokenizer:
        raise ConfigError(
            "config.word_vectors.frozen would keep new words' embeddings random: set "
            "config.init_tokenizer=True"
        )
    if frozen and decoder.ties_embeddings:
        raise ConfigError(
            "config.word_vectors.frozen would freeze the output layer, which is the embedding "
            "(tie_embeddings): set config.word_vectors.frozen=False"
        )


def check_start_files(config: ConfigDict) -> None:
    """Raises ConfigError for a missing file that a run reads once, when it is new."""
    file = config.word_vectors.file
    if file and not os.path.isfile(os.path.expanduser(file)):
        raise ConfigError(f"config.word_vectors.file={file!r}: there is no such file")


def _check_init_parts(config: ConfigDict) -> None:
    """Raises ConfigError for unknown `init_parts`, or for some without `init_from`."""
    parts = config.init_parts
    if parts != ("all",) and (not parts or not {*parts} <= {*questions.PARTS}):
        raise ConfigError(
            f"config.init_parts={parts} must be ('all',), or some of {', '.join(questions.PARTS)}"
        )
    if "adapter" in parts and "adapter" not in config:
        raise ConfigError("config.init_parts has 'adapter', and this config has no adapter")
    if parts != ("all",) and not config.init_from:
        raise ConfigError(f"config.init_parts={parts} needs a config.init_from")
    if not config.init_tokenizer and "decoder" not in questions.init_parts(config):
        raise ConfigError(
            "config.init_tokenizer=False needs a config.init_from, and config.init_parts with "
            "'decoder': otherwise the vocabulary is the dataset's anyway"
        )


def _check_images(config: ConfigDict) -> None:
    """Raises ConfigError where images, augmentation and feature cache do not fit together."""
    dataset = config.dataset
    build.resize(dataset)
    try:
        Augmentation(dataset.crop_area, dataset.flip)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not questions.is_cached(config):
        return
    if not questions.is_frozen(config):
        raise ConfigError(
            "config.encoder.cache keeps features of a frozen encoder, and config.encoder.trainable "
            f"is {config.encoder.trainable!r}: set --config.encoder.cache= to train the encoder"
        )
    views, augments = config.encoder.cache_views, dataset.crop_area < 1 or dataset.flip
    if views < 1 or (views > 1) != augments:
        raise ConfigError(
            f"config.encoder.cache_views={views} and config.dataset.crop_area={dataset.crop_area}, "
            f"flip={dataset.flip} do not fit: 1 view is the whole image, further views are random "
            "crops or flips; without a cache (--config.encoder.cache=) each step draws its own"
        )
    if not dataset.cache_dir:
        raise ConfigError("config.encoder.cache keeps features in config.dataset.cache_dir: set it")


def check_decoding(decoding: ConfigDict, config: ConfigDict) -> None:
    """Raises ConfigError for decoding settings that the config's decoder can't run."""
    for name, field in fields_of(DecodingFields).items():
        if message := fault(field.type, decoding[name]):
            raise ConfigError(f"config.decoding.{name}={decoding[name]!r} {message}")
    for name, usual in OF_BEAMS.items():
        if is_sampled(decoding) and decoding[name] != usual:
            what = "method" if decoding.method == "sample" else "candidates"
            raise ConfigError(
                f"config.decoding.{name}={decoding[name]!r} needs config.decoding.{what}='beam': "
                f"samples have no beams; {name}={usual!r} would do"
            )
    try:
        build.decoding_method(decoding).check()
    except SettingError as error:
        raise ConfigError(f"config.decoding.{error}") from error
    longest = build.captioner_of(config, vocab_size=1).decoder.longest_caption
    # The first token fed is bos, and the last one generated is not fed.
    if longest is not None and decoding.max_length > longest + 1:
        raise ConfigError(
            f"config.decoding.max_length={decoding.max_length} must lie in 2 to {longest + 1}, one "
            f"more than max_length={longest} of the model"
        )


def is_sampled(decoding: ConfigDict) -> bool:
    """True if captions, or the candidates of consensus, are samples."""
    return decoding.method == "sample" or (
        decoding.method == "consensus" and decoding.candidates == "sample"
    )


def check_words(method: Method, tokenizer: Tokenizer) -> None:
    """Raises ConfigError for words of a decoding method that the tokenizer can't say."""
    try:
        method.check_words(tokenizer)
    except SettingError as error:
        raise ConfigError(f"config.decoding.{error}") from error


def check_trainable(config: ConfigDict, params: Mapping[str, Any]) -> None:
    """Raises ConfigError for an entry of `encoder.trainable` that no part's name begins with."""
    modules = sorted(params.get("encoder", {}))
    for stage in config.encoder.get("trainable", ()):
        parts = questions.encoder_stage(config, stage)
        if stage != "all" and not any(is_part(m, part) for m in modules for part in parts):
            names = part_of(config, "encoder").stages or _blocks(modules)
            raise ConfigError(
                f"config.encoder.trainable has {stage!r}; it must be 'all' or the beginning of "
                f"a part's name in this encoder: {', '.join(names)}"
            )


def _blocks(modules: Sequence[str]) -> list[str]:
    """Names of parts up to a block's number, each once, sorted."""
    names = {re.match(r"\D*\d*", module).group().rstrip("_") for module in modules}
    return sorted(names, key=lambda name: (len(name), name))
