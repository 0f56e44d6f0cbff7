"""What a sweep file is written with: named variants of a config, and the sweep that they make.

A sweep file is Python with a function `get_sweep() -> Sweep`:

    def get_sweep():
        return Sweep(
            config=shapes_transformer.get_config,
            variants=grid(values("decoder.width", (64, 128)), values("decoder.num_layers", (1, 2))),
            evaluations={"greedy": {"num_beams": 1}, "beam5": {"num_beams": 5}},
            baseline="width64-num_layers1",
            seeds=(0, 1),
        )

Axes are lists of variants. `values` makes one of a field, and one can be written out, where an
override may be a whole section or a function that changes the config as it likes:

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
    """A sweep that can't be; the message names the variant or the field."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One config of a sweep.

    Attributes:
      name: of letters, digits and "._-"; it names folders.
      overrides: dotted field or section -> its value, in order, so that fields of a section can
        follow the section; or a function that changes the config in place.
    """

    name: str
    overrides: Overrides = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of a sweep: every variant with every seed.

    Attributes:
      config: makes the config that the variants change.
      variants: what is compared.
      evaluations: name -> fields of `config.decoding`; each run is evaluated so on validation.
      baseline: name of the variant that others are held against.
      seeds: of the runs.
    """

    config: Callable[[], ConfigDict]
    variants: Sequence[Variant]
    evaluations: Mapping[str, Mapping[str, Any]]
    baseline: str
    seeds: Sequence[int] = (0, 1)


def values(field: str, options: Sequence[Any]) -> list[Variant]:
    """One variant a value of a field, named by both: "width128"."""
    return [Variant(_label(field, value), {field: value}) for value in options]


def grid(*axes: Sequence[Variant]) -> list[Variant]:
    """Every combination of one variant an axis; later axes override earlier ones."""
    return [_together(variants) for variants in itertools.product(*axes)]


def one_by_one(base: Variant, *axes: Sequence[Variant]) -> list[Variant]:
    """`base`, and then each variant of each axis on top of it, no two together."""
    changed = (Variant(other.name, _both(base, other)) for axis in axes for other in axis)
    return [base, *changed]


def draw(count: int, fields: Mapping[str, Draw], *, seed: int = 0) -> list[Variant]:
    """`count` variants "draw0", "draw1", ... with a value drawn for each field.

    A draw depends on the seed, its number and its field alone: asking for more, or for a field
    more, leaves those that were there as they are.
    """

    def value(number: int, field: str) -> Any:
        # A checksum, since Python's own hash of a text differs from process to process.
        return fields[field](np.random.default_rng((seed, number, zlib.crc32(field.encode()))))

    return [
        Variant(f"draw{number}", {field: value(number, field) for field in fields})
        for number in range(count)
    ]


def log_uniform(low: float, high: float) -> Draw:
    """Draws a number of which the logarithm is uniform; raises ValueError unless 0 < low <= high.

    It is rounded to four digits, for tables to be read.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"log_uniform({low}, {high}) needs 0 < low <= high")

    def log_draw(rng: np.random.Generator) -> float:
        value = float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")
        return min(max(value, low), high)

    return log_draw


def uniform(low: float, high: float) -> Draw:
    """Draws a number between; raises ValueError unless low <= high. Rounded as `log_uniform`."""
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"uniform({low}, {high}) needs low <= high")
    return lambda rng: min(max(float(f"{rng.uniform(low, high):.4g}"), low), high)


def one_of(options: Sequence[Any]) -> Draw:
    """Draws one of the options; raises ValueError where there are none."""
    if not options:
        raise ValueError("one_of() needs an option")
    return lambda rng: options[int(rng.integers(len(options)))]


def apply(config: ConfigDict, overrides: Overrides) -> None:
    """Changes a config in place as a variant says.

    Raises:
      SweepError: a field is none of the config, or its value is of another kind.
    """
    if callable(overrides):
        overrides(config)
        return
    for name, value in overrides.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section.get(part) if isinstance(section, ConfigDict) else None
        # A whole section may be new: an adapter, where the base config has none.
        is_section = not sections and isinstance(value, ConfigDict)
        if not isinstance(section, ConfigDict) or (last not in section and not is_section):
            known = nearest(name, field_names(config))
            raise SweepError(f"{name}: there is no such field; {known}")
        try:
            # A copy, since variants of one sweep share the section that they were given.
            section[last] = value.copy_and_resolve_references() if is_section else value
        except TypeError as error:
            raise SweepError(f"{name}={value!r}: {error}") from error


def check(sweep: Sweep) -> None:
    """Raises SweepError for names that can't be, are given twice or are of nothing."""
    if not isinstance(sweep.variants, Sequence) or not sweep.variants:
        raise SweepError("its variants are a list of one or more")
    for variant in sweep.variants:
        if not isinstance(variant, Variant):
            raise SweepError(
                f"{variant!r:.60} among its variants is no Variant; a list goes in with a star, as "
                'in [*values("decoder.width", (64, 128))]'
            )
    names = [variant.name for variant in sweep.variants]
    for name in (*names, *sweep.evaluations):
        # It names files: not hidden ones, nor a folder above.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.=+-]*", name, re.ASCII):
            raise SweepError(f"the name {name!r}: letters, digits and ._=+- would do")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise SweepError(f"two variants have the name {doubled[0]}: give each its own")
    if sweep.baseline not in names:
        raise SweepError(f"baseline={sweep.baseline!r} is no variant; there are {', '.join(names)}")
    if not sweep.evaluations:
        raise SweepError('it has no evaluations: {"beam5": {"num_beams": 5}} would be one')
    seeds = list(sweep.seeds)
    if not seeds or len({*seeds}) < len(seeds) or not all(type(seed) is int for seed in seeds):
        raise SweepError(f"seeds={seeds}: give whole numbers, one or more, each once")


def _label(field: str, value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return field.rpartition(".")[2] + re.sub(r"[^\w.+-]+", "_", text).strip("_")


def _together(variants: Sequence[Variant]) -> Variant:
    name = "-".join(variant.name for variant in variants)
    return Variant(name, _both(*variants))


def _both(*variants: Variant) -> Callable[[ConfigDict], None]:
    def change(config: ConfigDict) -> None:
        for variant in variants:
            apply(config, variant.overrides)

    return change
