"""Variants of a config and sweeps of them, for sweep files.

A sweep file is Python with a function `get_sweep() -> Sweep`:

    def get_sweep():
        return Sweep(
            config=shapes_transformer.get_config,
            variants=grid(values("decoder.width", (64, 128)), values("decoder.num_layers", (1, 2))),
            evaluations={"greedy": {"num_beams": 1}, "beam5": {"num_beams": 5}},
            baseline="width64-num_layers1",
            seeds=(0, 1),
        )

An axis is a list of variants, made by `values` or written out. An override may also be a whole
section, or a function that changes the config:

    decoders = [
        Variant("transformer"),
        Variant("gru", {"decoder": base.bahdanau_decoder(), "decoder.cell": "gru"}),
        Variant("hard", use_hard_attention),
    ]
"""

import dataclasses
import itertools
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from capjax.cli.flags import field_names
from capjax.files.errors import ReportedError
from capjax.files.text import nearest

Overrides = Mapping[str, Any] | Callable[[ConfigDict], None]
Draw = Callable[[np.random.Generator], Any]


class SweepError(ReportedError, ValueError):
    """An invalid sweep; the message names the variant or the field."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One config of a sweep.

    Attributes:
      name: letters, digits and "._=+-", since it names folders.
      overrides: dotted field or section -> value, applied in order, so that a section can be
        followed by fields of it; or a function that changes the config in place.
    """

    name: str
    overrides: Overrides = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep: one run for every variant and seed.

    Attributes:
      config: returns the config that the variants change.
      variants: the configs that are compared.
      evaluations: name -> fields of `config.decoding` for an evaluation of each run on validation.
      baseline: name of the variant with which others are compared.
      seeds: the seeds of the runs.
    """

    config: Callable[[], ConfigDict]
    variants: Sequence[Variant]
    evaluations: Mapping[str, Mapping[str, Any]]
    baseline: str
    seeds: Sequence[int] = (0, 1)


def values(field: str, options: Sequence[Any]) -> list[Variant]:
    """An axis: a variant for each value of a field, named by both, such as "width128"."""
    return [Variant(_label(field, value), {field: value}) for value in options]


def grid(*axes: Sequence[Variant]) -> list[Variant]:
    """All combinations of one variant from each axis; later axes override earlier ones."""
    return [_combination(variants) for variants in itertools.product(*axes)]


def one_by_one(base: Variant, *axes: Sequence[Variant]) -> list[Variant]:
    """`base`, followed by each single variant of all axes applied to it."""
    changed = (Variant(other.name, _combined(base, other)) for axis in axes for other in axis)
    return [base, *changed]


def draw(count: int, fields: Mapping[str, Draw], *, seed: int = 0) -> list[Variant]:
    """Random search: `count` variants "draw0", "draw1", ... with a value drawn for each field.

    A value depends only on the seed, the draw's number and the field, so that more draws or fields
    leave the existing ones unchanged.
    """

    def value(number: int, field: str) -> Any:
        # A checksum, since Python's hash of a string differs between processes.
        return fields[field](np.random.default_rng((seed, number, zlib.crc32(field.encode()))))

    return [
        Variant(f"draw{number}", {field: value(number, field) for field in fields})
        for number in range(count)
    ]


def log_uniform(low: float, high: float) -> Draw:
    """Draws log-uniformly from [low, high]; raises ValueError unless 0 < low <= high.

    Values are rounded to four significant digits, to keep tables readable.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"log_uniform({low}, {high}) needs 0 < low <= high")

    def log_draw(rng: np.random.Generator) -> float:
        value = float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")
        return min(max(value, low), high)

    return log_draw


def uniform(low: float, high: float) -> Draw:
    """Draws uniformly from [low, high], rounded to four digits; raises ValueError if low > high."""
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"uniform({low}, {high}) needs low <= high")
    return lambda rng: min(max(float(f"{rng.uniform(low, high):.4g}"), low), high)


def one_of(options: Sequence[Any]) -> Draw:
    """Draws one of the options; raises ValueError if there are none."""
    if not options:
        raise ValueError("one_of() needs an option")
    return lambda rng: options[int(rng.integers(len(options)))]


def apply(config: ConfigDict, overrides: Overrides) -> None:
    """Applies a variant's overrides to a config in place.

    Raises:
      SweepError: the config has no such field, or the value has another type.
    """
    if callable(overrides):
        overrides(config)
        return
    for name, value in overrides.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section.get(part) if isinstance(section, ConfigDict) else None
        # A whole section may be new, such as an adapter.
        is_section = not sections and isinstance(value, ConfigDict)
        if not isinstance(section, ConfigDict) or (last not in section and not is_section):
            known = nearest(name, field_names(config))
            raise SweepError(f"{name}: there is no such field; {known}")
        try:
            # Copied, since several variants may share the section.
            section[last] = value.copy_and_resolve_references() if is_section else value
        except TypeError as error:
            raise SweepError(f"{name}={value!r}: {error}") from error


def check(sweep: Sweep) -> None:
    """Raises SweepError for invalid, duplicate or unknown names, and for missing parts."""
    if not isinstance(sweep.variants, Sequence) or not sweep.variants:
        raise SweepError("variants must be a list of at least one Variant")
    for variant in sweep.variants:
        if not isinstance(variant, Variant):
            raise SweepError(
                f"{variant!r:.60} among the variants is no Variant; unpack a list with a star, as "
                'in [*values("decoder.width", (64, 128))]'
            )
    names = [variant.name for variant in sweep.variants]
    for name in (*names, *sweep.evaluations):
        # Names become file names, which must be neither hidden nor in a parent folder.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.=+-]*", name, re.ASCII):
            raise SweepError(f"the name {name!r} must consist of letters, digits and ._=+-")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise SweepError(f"two variants have the name {doubled[0]}: names must be unique")
    if sweep.baseline not in names:
        raise SweepError(
            f"baseline={sweep.baseline!r} is no variant; the variants are {', '.join(names)}"
        )
    if not sweep.evaluations:
        raise SweepError('evaluations must not be empty; try {"beam5": {"num_beams": 5}}')
    seeds = list(sweep.seeds)
    if not seeds or len({*seeds}) < len(seeds) or not all(type(seed) is int for seed in seeds):
        raise SweepError(f"seeds={seeds} must be one or more distinct integers")


def _label(field: str, value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return field.rpartition(".")[2] + re.sub(r"[^\w.+-]+", "_", text).strip("_")


def _combination(variants: Sequence[Variant]) -> Variant:
    name = "-".join(variant.name for variant in variants)
    return Variant(name, _combined(*variants))


def _combined(*variants: Variant) -> Callable[[ConfigDict], None]:
    def change(config: ConfigDict) -> None:
        for variant in variants:
            apply(config, variant.overrides)

    return change
