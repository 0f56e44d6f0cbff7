"""A run, or a captioner of transformers, behind the server."""

import dataclasses
import typing
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

from capjax.config.errors import ConfigError
from capjax.config.sections import ABOUT, DecodingFields
from capjax.evaluate.captioning import CaptionBatches
from capjax.evaluate.methods import BeamSearch, Consensus, Method, Sampling, settings_of
from capjax.files.text import nearest
from capjax.models import few_rows
from capjax.parallel import devices
from capjax.parts.check import fields_of
from capjax.parts.types import Range
from capjax.run.load import Run
from capjax.serve.served import Program, Seen, SettingsError, doubled, flat, read_image

# Consensus reads the captions of the train split, and is a model's default or not at all.
_OF_CONSENSUS = ("candidates", "num_samples", "reward", "rewards", "reward_weights")
_OFFERED = tuple(name for name in ABOUT if name not in _OF_CONSENSUS)
# A setting that is a field of some of these is of them alone.
_OF = {"beam": BeamSearch, "sample": Sampling}
# Of a setting that is a list of words.
_MOST_WORDS = 32
_KINDS = {int: "int", float: "float", bool: "bool", str: "str", tuple: "str"}


class ServedRun:
    """See `capjax.serve.served.Served`."""

    def __init__(self, name: str, run: Run, *, most_beams: int, most_length: int):
        """Puts the run's parameters on the devices.

        Args:
          name: by which clients ask for it.
          run: the run.
          most_beams: largest number of beams, and of captions; that of the run if it has more.
          most_length: largest number of tokens; that of the run if it has more.
        """
        self.name, self._run = name, run
        self.about, self.parameters = run.architecture, run.num_parameters
        decoder = run.model.decoder
        self.attends = bool(decoder.has_attention)
        self._resize, self.shape = run.resize, run.resize.shape
        self._variables = devices.replicate(few_rows.prepared(run.variables))
        self._default = run.method()
        usual = run.config.decoding
        longest = decoder.longest_caption
        length = most_length if longest is None else min(most_length, longest + 1)
        limits = dict.fromkeys(("num_beams", "num_beam_groups", "num_captions"), most_beams)
        limits["max_length"] = length
        self._most = {key: max(limit, usual[key]) for key, limit in limits.items()}

    def settings(self) -> list[dict[str, Any]]:
        return [self._setting(name) for name in _OFFERED]

    def _setting(self, name: str) -> dict[str, Any]:
        kind, *marks = _parts(name)
        found: dict[str, Any] = {"name": name, "about": ABOUT[name]}
        of = [method for method, search in _OF.items() if name in fields_of(search)]
        if of and not isinstance(self._default, Consensus):
            found["of"] = of
        if typing.get_origin(kind) is typing.Literal:
            choices = list(typing.get_args(kind))
            if name == "method" and not isinstance(self._default, Consensus):
                choices.remove("consensus")
            return {**found, "kind": "choice", "choices": choices}
        found["kind"] = _KINDS[typing.get_origin(kind) or kind]
        for mark in marks:
            if isinstance(mark, Range):
                found |= {"least": mark.least, "most": self._most.get(name, mark.most)}
        return found

    def defaults(self) -> dict[str, Any]:
        return {name: self._run.config.decoding[name] for name in _OFFERED}

    def method(self, settings: Mapping[str, Any]) -> Method:
        if not settings:
            return self._default
        given = {name: self._value(name, value) for name, value in settings.items()}
        if given.get("method") == "consensus" and not isinstance(self._default, Consensus):
            raise SettingsError("method='consensus' is not served with this model")
        try:
            return self._run.method(**given)
        except ConfigError as error:
            raise SettingsError(str(error)) from error

    def _value(self, name: str, value: Any) -> Any:
        """A value of JSON as that of a setting, within the server's limits."""
        if name in _OF_CONSENSUS:
            raise SettingsError(f"{name} can't be set by clients")
        if name not in _OFFERED:
            raise SettingsError(f"there is no setting {name!r:.80}: {nearest(name, _OFFERED)}")
        kind, *_ = _parts(name)
        if typing.get_origin(kind) is tuple:
            if isinstance(value, str):
                value = [word.strip() for word in value.split(",") if word.strip()]
            if isinstance(value, list):
                value = tuple(value)
                if len(value) > _MOST_WORDS:
                    raise SettingsError(f"{name} has {len(value)} words; {_MOST_WORDS} are taken")
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)  # Otherwise it would be compiled once more.
        if type(value) is int and value > (most := self._most.get(name, value)):
            raise SettingsError(f"{name}={value!r:.80} must be at most {most} with this server")
        return value

    def described(self, method: Method) -> dict[str, Any]:
        return flat(settings_of(method))

    def kind(self, method: Method) -> Hashable:
        if isinstance(method, Consensus):
            return dataclasses.replace(method, candidates=_program_of(method.candidates))
        return _program_of(method)

    def program(self, *, attention: bool) -> Program:
        batches = CaptionBatches(self._run.model, self._run.tokenizer, attention=attention)

        def caption(method: Method, pixels: np.ndarray, index: np.ndarray) -> list[Any]:
            batch = {"image": pixels, "index": index}
            return [found for _, found in batches.rows(self._variables, [batch], method)]

        return caption

    def sizes(self, most: int) -> list[int]:
        return doubled(most, jax.local_device_count())

    def read(self, content: bytes, name: str) -> tuple[np.ndarray, Seen]:
        return read_image(content, name, self._resize)


def _program_of(method: BeamSearch | Sampling) -> BeamSearch | Sampling:
    """A method without the numbers that are arguments of its program."""
    if isinstance(method, Sampling):
        return dataclasses.replace(method, temperature=0.0, seed=0)
    return method


def _parts(name: str) -> tuple[Any, ...]:
    """The type of a setting, and its marks."""
    annotation = fields_of(DecodingFields)[name].type
    if typing.get_origin(annotation) is typing.Annotated:
        return annotation.__origin__, *annotation.__metadata__
    return (annotation,)
