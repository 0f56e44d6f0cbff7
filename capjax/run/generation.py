"""A beam search of a run as settings of transformers."""

import dataclasses

from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.methods import BeamSearch
from capjax.pretrained.captioners.generation_file import Generation
from capjax.pretrained.errors import ExportError

# What `transformers.generate` has no field for in its file, with the values that change nothing.
_OURS = {"must_include": (), "length_normalization": "power"}
_OURS_OF_CONTROL = {"bad_endings": (), "allowed": ()}


def generation_of(method: BeamSearch, tokenizer: Tokenizer) -> Generation:
    """The settings of a beam search for `transformers.generate`, with ids for words.

    A prompt is none of them, but an input there.

    Raises:
      ExportError: there is one that its file can't hold; names it.
    """
    given = {name: (getattr(method, name), usual) for name, usual in _OURS.items()}
    given |= {n: (getattr(method.control, n), usual) for n, usual in _OURS_OF_CONTROL.items()}
    for name, (value, usual) in given.items():
        if value != usual:
            raise ExportError(
                f"config.decoding.{name}={value!r} is none of transformers' settings: evaluate the "
                f"exported captioner with your own code, or export with {name}={usual!r}"
            )
    names = {field.name for field in dataclasses.fields(Generation)} - {"processors"}
    fields = {name: getattr(method, name) for name in names}
    return Generation(**fields, processors=method.control.processors(tokenizer))
