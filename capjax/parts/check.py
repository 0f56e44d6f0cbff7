"""Reads the fields of a part, and checks values against their types."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from capjax.parts.types import MOST, BuilderField, Lengths, NotEmpty, Range, ZeroOr

_NAMED = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


@dataclasses.dataclass(frozen=True)
class Field:
    """A config field of a part.

    Attributes:
      type: its annotation.
      required: True if the part has no default for it.
    """

    type: Any
    required: bool


@functools.cache
def fields_of(part: type | Callable) -> Mapping[str, Field]:
    """The config fields of a dataclass, or the keyword-only parameters of a function, by name.

    Excludes fields marked as `Given`, fields that begin with an underscore, and "name" and
    "parent": a section names its part by "name", and Flax gives every module both.
    """
    types = typing.get_type_hints(part, include_extras=True)
    if dataclasses.is_dataclass(part):
        found = {
            field.name: Field(
                types[field.name],
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(part)
            if field.init
        }
    else:
        found = {
            name: Field(types[name], parameter.default is parameter.empty)
            for name, parameter in inspect.signature(part).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
    return {
        name: field
        for name, field in found.items()
        if not name.startswith("_") and name not in ("name", "parent") and not _is_given(field.type)
    }


@functools.cache
def given_fields(part: type) -> frozenset[str]:
    """The names of a part's fields that are marked as `Given`."""
    types = typing.get_type_hints(part, include_extras=True)
    fields = dataclasses.fields(part)
    return frozenset(field.name for field in fields if _is_given(types[field.name]))


@functools.cache
def choices_of(part: type) -> dict[str, Any]:
    """The types of a part's fields that list choices, by name."""
    fields = fields_of(part)
    return {n: f.type for n, f in fields.items() if typing.get_origin(f.type) is Literal}


def _is_given(annotation: Any) -> bool:
    marks = getattr(annotation, "__metadata__", ())
    return any(isinstance(mark, BuilderField) for mark in marks)


def fault(annotation: Any, value: Any) -> str | None:
    """The text "must be ..." for a value that is not of the type; None if it is."""
    annotation, marks = _unwrap(annotation)
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        # 1 == True and 1.0 == 1 in Python.
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return None
        return f"must be one of {', '.join(map(repr, choices))}"
    if annotation is tuple or typing.get_origin(annotation) is tuple:
        return _tuple_fault(annotation, marks, value)
    if annotation not in _NAMED:  # A type that is not checked, of a user's own part.
        return None
    types = (float, int) if annotation is float else (annotation,)
    is_flag = isinstance(value, bool) and annotation is not bool
    if is_flag or not isinstance(value, types):
        return f"must be {_NAMED[annotation]}"
    for mark in marks:
        if isinstance(mark, ZeroOr) and value == 0:
            continue
        # Written so that NaN fails.
        if isinstance(mark, Range) and not mark.least <= value <= mark.most:
            return f"must {mark.text}"
        if isinstance(mark, NotEmpty) and not value:
            return "must not be empty"
    return None


def _tuple_fault(annotation: Any, marks: tuple, value: Any) -> str | None:
    lengths = next((m for m in marks if isinstance(m, Lengths)), Lengths(0, MOST, "values"))
    item = typing.get_args(annotation)[0]
    if (
        isinstance(value, tuple)
        and lengths.least <= len(value) <= lengths.most
        and not any(fault(item, one) for one in value)
    ):
        return None
    return f"must be a tuple of {lengths.text}"


def _unwrap(annotation: Any) -> tuple[Any, tuple]:
    """A type without `Annotated`, and its metadata."""
    if typing.get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__
    return annotation, ()
