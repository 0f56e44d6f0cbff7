"""What each field of a config may be by itself; `checks` has what fields may be together."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from capjax.config.build import (
    DECODER_TRAINING_FIELDS,
    DTYPES,
    PRETRAINED,
    TRAINING_FIELDS,
    ConfigError,
    dataset_class,
)
from capjax.files.text import first_few, nearest
from capjax.models.decoders.bahdanau import CHOICES as BAHDANAU_CHOICES
from capjax.train.optimizer import SCHEDULES

# Larger counts are slips, and no int32 of JAX or TensorFlow.
_MOST = 2**31 - 1
# Larger numbers are infinite as float32.
_LARGEST = 3e38
# Side of an image in pixels; a square of more would be refused as an image, see `capjax.data`.
_SIDE = 8192
# Each is compiled.
_LAYERS = 1000


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value must be.

    Attributes:
      types: its Python types; a bool is no int here.
      named: the types, for a message: "must be a whole number".
      holds: whether a value of these types will do.
      range: what `holds` asks, for a message: "must be 1 or more".
    """

    types: tuple[type, ...]
    named: str
    holds: Callable[[Any], bool] = lambda value: True
    range: str = ""

    def fault(self, value: Any) -> str | None:
        """What the value "must be" and is not, or None."""
        is_flag = isinstance(value, bool) and bool not in self.types
        if is_flag or not isinstance(value, self.types):
            return f"must be {self.named}"
        return None if self.holds(value) else self.range


def _whole(least: int, most: int = _MOST) -> Kind:
    limits = f"{least} or more" if most == _MOST else f"{least} to {most}"
    return Kind((int,), "a whole number", lambda x: least <= x <= most, f"must be {limits}")


def _real(least: float = -_LARGEST, most: float = _LARGEST, *, text: str) -> Kind:
    # Written so that NaN does not hold.
    return Kind((float, int), "a number", lambda x: least <= x <= most, f"must {text}")


def _one_of(*options: str) -> Kind:
    return Kind(
        (str,), "text", lambda x: x in options, f"; it may be {', '.join(map(repr, options))}"
    )


def _tuple_of(kind: Kind, lengths: range | tuple[int, ...], text: str) -> Kind:
    def holds(values: tuple) -> bool:
        return len(values) in lengths and not any(map(kind.fault, values))

    return Kind((tuple,), f"a tuple of {text}", holds, f"must be a tuple of {text}")


_TEXT = Kind((str,), "text")
_NAME = Kind((str,), "text", bool, "must not be empty")
_FLAG = Kind((bool,), "True or False")
_ANY = _real(text="be a finite number")
_POSITIVE = _real(math.ulp(0.0), text="be above 0, and finite")
_UP = _real(0.0, text="be 0 or more, and finite")
_SHARE = _real(0.0, 1.0, text="lie in 0 to 1")
# Of what is dropped, smoothed or decayed, all would leave nothing.
_BELOW_1 = _real(0.0, math.nextafter(1.0, 0.0), text="be 0 or more, and below 1")
_SEED = _whole(0, 2**32 - 1)
_NAMES = _tuple_of(_NAME, range(1000), "names")
_POSITIONS = ("learned", "sincos")

# By name; of an encoder or a decoder, whatever their kind has it.
FIELDS: dict[str, Kind] = {
    "seed": _SEED,
    "init_from": _TEXT,
    "init_parts": _NAMES,
    "init_tokenizer": _FLAG,
    "dtype": _one_of(*DTYPES),
    "batch_size": _whole(1),
    "num_steps": _whole(1),
    "accumulate": _whole(1),
    "ema_decay": _BELOW_1,
    "label_smoothing": _BELOW_1,
    "attention_penalty": _UP,
    "log_every": _whole(1),
    "eval_every": _whole(1),
    "checkpoint_every": _whole(0),
    "tokenizer.min_count": _whole(1),
    "tokenizer.max_words": _whole(0),
    "tokenizer.alphabetic_only": _FLAG,
    "word_vectors.file": _TEXT,
    "word_vectors.frozen": _FLAG,
    "hard_attention.reinforce_weight": _UP,
    "hard_attention.entropy_weight": _UP,
    "scheduled_sampling.kind": _one_of("none", "linear", "exponential", "inverse_sigmoid"),
    "scheduled_sampling.k": _UP,
    "scheduled_sampling.slope": _UP,
    "scheduled_sampling.floor": _SHARE,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.schedule": _one_of(*SCHEDULES),
    "optimizer.encoder_learning_rate": _UP,
    "optimizer.encoder_start_step": _whole(0),
    "optimizer.warmup_steps": _whole(0),
    "optimizer.b1": _BELOW_1,
    "optimizer.b2": _BELOW_1,
    "optimizer.weight_decay": _UP,
    "optimizer.clip_norm": _UP,
    "optimizer.clip_value": _UP,
    "optimizer.skip_nonfinite": _whole(0),
    "early_stopping.metric": _NAME,
    "early_stopping.mode": _one_of("max", "min"),
    "early_stopping.patience": _whole(0),
    "evaluation.batch_size": _whole(1),
    "evaluation.num_samples": _whole(0),
    "evaluation.temperatures": _tuple_of(_UP, range(100), "numbers of 0 or more"),
    "decoding.num_beams": _whole(1),
    "decoding.length_penalty": _ANY,
    "decoding.early_stopping": _one_of("true", "false", "never"),
    "decoding.max_length": _whole(2),
    "dataset.name": _NAME,
    "dataset.cache_dir": _TEXT,
    "dataset.image_size": _whole(1, _SIDE),
    "dataset.resize_to": _whole(0, _SIDE),
    "dataset.keep_aspect": _FLAG,
    "dataset.interpolation": _TEXT,
    "dataset.antialias": _FLAG,
    "dataset.round_crop": _FLAG,
    "dataset.crop_area": _ANY,
    "dataset.flip": _FLAG,
    "dataset.captions_per_image": _whole(1),
    "dataset.max_length": _whole(2),
    "dataset.over_length": _one_of("drop", "cut"),
    "dataset.packed": _FLAG,
    "dataset.length_bucket": _whole(0),
    "dataset.num_threads": _whole(1),
    "dataset.data_dir": _TEXT,
    "dataset.tfds_name": _NAME,
    "dataset.bad_images": _one_of("refuse", "skip"),
    "dataset.allow_outside": _FLAG,
    "dataset.root": _TEXT,
    "dataset.file": _TEXT,
    "dataset.restval": _FLAG,
    "dataset.train_file": _TEXT,
    "dataset.train_root": _TEXT,
    "dataset.validation_file": _TEXT,
    "dataset.validation_root": _TEXT,
    "dataset.sample": _whole(0),
    "dataset.sample_by": _one_of("captions", "images"),
    "dataset.sample_seed": _SEED,
    "dataset.validation_share": _real(
        math.ulp(0.0), math.nextafter(1.0, 0.0), text="be above 0 and below 1"
    ),
    "dataset.split_seed": _SEED,
    "encoder.name": _NAME,
    "encoder.patch_size": _whole(1, _SIDE),
    "encoder.width": _whole(1),
    "encoder.depth": _whole(1, _LAYERS),
    "encoder.num_heads": _whole(1),
    "encoder.mlp_ratio": _POSITIVE,
    "encoder.positions": _one_of(*_POSITIONS),
    "encoder.class_token": _FLAG,
    "encoder.dropout": _BELOW_1,
    "encoder.widths": _tuple_of(_whole(1), range(1, 20), "whole numbers of 1 or more"),
    "encoder.blocks": _whole(1, _LAYERS),
    "encoder.stem_stride": _whole(1, _SIDE),
    "encoder.groups": _whole(1),
    "encoder.weights": _NAME,
    "encoder.trainable": _NAMES,
    "encoder.cache": _TEXT,
    "encoder.cache_views": _whole(1),
    "encoder.alpha": _POSITIVE,
    "encoder.size": _one_of("small", "large"),
    "encoder.grid": _whole(0, _SIDE),
    "encoder.mlp_dim": _whole(1),
    "encoder.position_grid": _tuple_of(_whole(1, _SIDE), (2,), "two whole numbers of 1 or more"),
    "encoder.prefix": _whole(0, _SIDE),
    "encoder.patch_bias": _FLAG,
    "encoder.pre_norm": _FLAG,
    "encoder.final_norm": _FLAG,
    "encoder.layer_scale": _FLAG,
    "encoder.gated": _FLAG,
    "encoder.activation": _one_of("gelu", "gelu_tanh", "quick_gelu", "silu"),
    "encoder.epsilon": _UP,
    "encoder.mean": _tuple_of(_ANY, (3,), "three numbers"),
    "encoder.std": _tuple_of(_POSITIVE, (3,), "three numbers above 0"),
    "encoder.resample": _one_of("bicubic", "bicubic_antialias", "linear"),
    "adapter.width": _whole(1),
    "adapter.norms": _FLAG,
    "adapter.activation": _TEXT,
    "adapter.depth": _whole(0, _LAYERS),
    "adapter.num_heads": _whole(1),
    "adapter.mlp_ratio": _POSITIVE,
    "adapter.positions": _one_of(*_POSITIONS, "none"),
    "adapter.input_dropout": _BELOW_1,
    "adapter.dropout": _BELOW_1,
    "decoder.name": _NAME,
    "decoder.width": _whole(1),
    "decoder.max_length": _whole(2),
    "decoder.num_layers": _whole(1, _LAYERS),
    "decoder.num_heads": _whole(1),
    "decoder.head_dim": _whole(0),
    "decoder.mlp_ratio": _POSITIVE,
    "decoder.norm": _one_of("pre", "post"),
    "decoder.activation": _NAME,
    "decoder.dropout": _BELOW_1,
    "decoder.attention_dropout": _BELOW_1,
    "decoder.epsilon": _UP,
    "decoder.weights": _TEXT,
    "decoder.frozen": _FLAG,
    "decoder.tie_embeddings": _FLAG,
    "decoder.smart_bias": _FLAG,
    "decoder.embed_dim": _whole(1),
    "decoder.attention_dim": _whole(1),
    "decoder.embedding_dropout": _BELOW_1,
    "decoder.expected_rate": _SHARE,
    "decoder.remat": _FLAG,
    **{f"decoder.{field}": _one_of(*choices) for field, choices in BAHDANAU_CHOICES.items()},
}

_SECTIONS = {name.split(".")[0] for name in FIELDS if "." in name}
# Fields of some datasets alone.
_DATASETS = {
    "flickr8k": {"bad_images", "allow_outside", "root"},
    "karpathy": {"bad_images", "allow_outside", "root", "file", "restval"},
    "coco_json": {
        "bad_images",
        "allow_outside",
        *("train_file", "train_root", "validation_file", "validation_root"),
        *("sample", "sample_by", "sample_seed"),
    },
    "folder": {"bad_images", "allow_outside", "root", "file", "validation_share", "split_seed"},
    "tfds": {"data_dir", "tfds_name"},
    "shapes": {"data_dir"},
    "": set(),
}


def check_fields(config: ConfigDict) -> None:
    """Raises ConfigError, naming the field, where one is missing, unknown or can't be as it is."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{_WHOLE}, and this one is {_show(config)}")
    given = dict(_leaves(config))
    for name in sorted(given):
        if name in _SECTIONS:
            raise ConfigError(f"config.{name}={_show(given[name])} must be a section of fields")
        if name in FIELDS and (fault := FIELDS[name].fault(given[name])):
            # A choice's fault follows a semicolon.
            space = "" if fault.startswith(";") else " "
            raise ConfigError(f"config.{name}={_show(given[name])}{space}{fault}")
    if "dataset.name" in given:
        dataset_class(given["dataset.name"])
    possible, needed = _fields_of(given)
    for name in sorted(given.keys() - possible):
        if name not in FIELDS:
            raise ConfigError(f"config.{name}: there is no such field; {nearest(name, possible)}")
        section, _, field = name.partition(".")
        raise ConfigError(
            f"config.{section} of the name {config[section].get('name')!r} has no {field}; "
            f"configs/base.py has functions that make a {section} section"
        )
    if missing := sorted(needed - given.keys()):
        raise ConfigError(f"{_WHOLE}; of this one are missing: {first_few(missing)}")


_WHOLE = "a config has all fields of configs/base.py, from which it starts"


def _show(value: Any) -> str:
    """A value on one short line."""
    text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _leaves(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """Every field by name; a section where there should be none is one, too."""
    for name, value in config.items():
        if name in _SECTIONS and isinstance(value, ConfigDict):
            yield from ((f"{name}.{field}", leaf) for field, leaf in value.items())
        else:
            yield name, value


def _fields_of(given: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Names of the fields that a config of these may have, and of those that it must have."""
    dataset = given.get("dataset.name")
    dataset = dataset if dataset in _DATASETS else ""
    some = {f"dataset.{field}" for fields in _DATASETS.values() for field in fields}
    own = {f"dataset.{field}" for field in _DATASETS[dataset]}
    training = {f"encoder.{field}" for field in TRAINING_FIELDS}
    pretrained = training if given.get("encoder.name") in PRETRAINED else set()
    possible = FIELDS.keys() - (some - own) - (training - pretrained)
    # Modules know the rest of what they need.
    free = ("encoder.", "decoder.", "adapter.")
    needed = {name for name in possible if not name.startswith(free)} | pretrained
    needed |= {"encoder.name", "decoder.name"}
    training = DECODER_TRAINING_FIELDS.get(given.get("decoder.name"), ())
    needed |= {f"decoder.{field}" for field in training}
    return possible, needed
