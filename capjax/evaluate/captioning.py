"""Captions for batches of images, decoded on all devices. Shapes: see docs/architecture.md."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.control import SettingError
from capjax.evaluate.found import Found
from capjax.evaluate.methods import BeamSearch, Consensus, Method, Sampling
from capjax.files.errors import ReportedError
from capjax.models import few_rows
from capjax.models.captioner import Captioner
from capjax.models.contract import Memory
from capjax.models.ensemble import Ensemble, EnsembleMemory
from capjax.models.stacks import unstacked
from capjax.parallel import devices, programs

__all__ = ["BeamSearch", "Caption", "CaptionBatches", "CaptionError", "Sampling", "make_decode"]


class CaptionError(ReportedError, ValueError):
    """A model gives no caption; the message says why."""


@dataclasses.dataclass(frozen=True)
class Caption:
    """A generated caption of one image.

    Its length and iteration are those of all captions of the image: itself and its alternatives.

    Attributes:
      text: the caption, with the prompt.
      log_prob: log-probability under the model, in nats; a prompt counts as given.
      score: what the method ranks by: of beam search the length-normalised log-probability after
        logits processors, of a sample that log-probability itself, of consensus the expected
        reward.
      finished: True if it ended with eos, False if it was truncated at the length limit.
      words: text of each of the T tokens without prompt and eos.
      attention: float32 [T, N, P], or None if not requested.
      grid: (h, w) of the spatial memory positions; P == prefix + h * w.
      prefix: number of memory positions before the grid.
      layers: number of layers; the N maps are the heads of the first layer, then the second, ...
      log_probs: log-probability of each word, and last of the end where it is finished; their sum
        is `log_prob`.
      met: False if it lacks a word of `must_include`, which no caption of the search had.
      alternatives: the others of `num_captions`, the best first, without attention.
      tokens: ids of the words.
    """

    text: str
    log_prob: float
    score: float
    finished: bool
    words: tuple[str, ...]
    attention: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    prefix: int = 0
    layers: int = 1
    log_probs: tuple[float, ...] = ()
    met: bool = True
    alternatives: tuple["Caption", ...] = ()
    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return 1 + len(self.alternatives)

    def __iter__(self) -> Iterator["Caption"]:
        yield self
        yield from self.alternatives

    def without(self, prompt: str) -> "Caption":
        """Itself and its alternatives, without a prompt with which their texts begin."""
        if not prompt:
            return self
        others = tuple(caption.without(prompt) for caption in self.alternatives)
        text = self.text.removeprefix(prompt).lstrip()
        return dataclasses.replace(self, text=text, alternatives=others)


class CaptionBatches:
    """Captions batches of images with one model.

    Compiles once for each batch shape and each setting, except temperatures and seeds.
    """

    def __init__(
        self,
        model: Captioner | Ensemble,
        tokenizer: Tokenizer,
        *,
        attention: bool = False,
        together: bool = False,
    ):
        """Prepares the captioner; nothing is compiled yet.

        Args:
          model: the captioner.
          tokenizer: converts tokens to text.
          attention: True to return the attention of each word.
          together: True if each batch holds the rows of this process only. Every process then
            yields the captions of all rows, and all processes must take part.
        """
        self._tokenizer, self._together = tokenizer, together
        self._attention, self._layers = attention, model.decoder.attention_layers

        def decode(variables: Any, method: Method, images: jax.Array, index: jax.Array) -> Any:
            memory = model.apply(variables, images, method="encode")
            decode = make_decode(model, tokenizer, method, attention=attention)
            # As a result, since a kept program is not traced again.
            shape = jnp.array([[*memory.grid, memory.prefix]])
            return vars(decode(variables, memory, index)), shape

        made_from = ("captions", model, tokenizer.fingerprint, attention)
        self._decode = programs.map_local(decode, made_from)

    def __call__(
        self, variables: Any, batches: Iterable[Mapping[str, np.ndarray]], method: Method
    ) -> Iterator[tuple[int, Caption]]:
        """Yields (index, caption) for every row of the batches that is not padding.

        Args:
          variables: replicated.
          batches: "image" [B, H, W, 3] or "features" [B, P, F], and "index" int32 [B], -1 in
            padding rows. B must be a multiple of the local devices.
          method: the decoding method.

        Raises:
          SettingError: the settings exclude each other, or a word is outside the vocabulary.
          CaptionError: the model gives an image no token with a finite log-probability.
        """
        for index, caption in self.rows(variables, batches, method):
            if isinstance(caption, CaptionError):
                raise caption
            yield index, caption

    def rows(
        self, variables: Any, batches: Iterable[Mapping[str, np.ndarray]], method: Method
    ) -> Iterator[tuple[int, Caption | CaptionError]]:
        """As a call, but yields the error of an image: its batch has the captions of others."""
        method.check()
        method.check_words(self._tokenizer)
        of_beams = isinstance(method, Consensus) and isinstance(method.candidates, BeamSearch)
        if of_beams and self._attention:
            raise SettingError("candidates='beam' gives consensus no attention: 'sample' does")
        given, method = method, devices.replicate(method)
        for batch in batches:
            images = batch["image"] if "image" in batch else batch["features"]
            index = batch["index"]
            inputs = devices.shard((images, index))
            fields, shape = devices.unshard(self._decode(variables, method, *inputs))
            result = Found(**fields)
            if self._together:
                result, index = devices.gather((result, index))
            for row in np.flatnonzero(index >= 0):
                place, found = int(index[row]), None
                if np.isfinite(result.log_probs[row, 0]):
                    found = self._caption(result, row, given, shape[0].tolist())
                yield (
                    place,
                    found
                    or CaptionError(
                        f"image {place}, counted from 0, has no caption: the model gives it "
                        "log-probabilities that are NaN or infinite; take another checkpoint, or "
                        "config.dtype='float32' where it is 'bfloat16'"
                    ),
                )

    def _caption(self, result: Found, row: int, method: Method, shape: list[int]) -> Caption:
        """The best caption of a row of a result of NumPy arrays, with its alternatives."""
        prompt = method.control.prompt_ids(self._tokenizer)
        found: list[Caption] = []
        for place in np.flatnonzero(result.lengths[row]).tolist():
            caption = self._one(result, (row, place), prompt, shape)
            # Sharp samples are often equal.
            if not (isinstance(method, Consensus) and caption.text in map(str, found)):
                found.append(caption)
            if len(found) == method.num_captions:
                break
        return dataclasses.replace(found[0], alternatives=tuple(found[1:]))

    def _one(
        self, result: Found, at: tuple[int, int], prompt: Sequence[int], shape: list[int]
    ) -> Caption:
        finished, length = bool(result.finished[at]), int(result.lengths[at])
        ids = result.tokens[at][: length - finished].tolist()
        best = self._attention and at[1] == 0
        height, width, prefix = shape
        return Caption(
            text=self._tokenizer.decode([*prompt, *ids]),
            log_prob=float(result.log_probs[at]),
            score=float(result.scores[at]),
            finished=finished,
            words=tuple(self._tokenizer.word(token) for token in ids),
            attention=result.attention[at][: len(ids)] if best else None,
            grid=(height, width) if best else None,
            prefix=prefix,
            layers=self._layers,
            log_probs=tuple(result.token_log_probs[at][:length].tolist()),
            met=result.met is None or bool(result.met[at]),
            tokens=tuple(ids),
        )


def make_decode(
    model: Captioner | Ensemble, tokenizer: Tokenizer, method: Method, *, attention: bool
) -> Callable[[Any, Memory | EnsembleMemory, jax.Array], Found]:
    """Builds a per-device (variables, memory, index [B]) -> captions of each image.

    A sample depends on the index of its image, not on its batch or device.
    """

    def decode(variables: Any, memory: Memory | EnsembleMemory, index: jax.Array) -> Found:
        variables = few_rows.prepared(unstacked(variables), index.shape[0] * method.width)

        # Traced once: a search asks for its shapes before it scans.
        @functools.partial(jax.jit, inline=True)
        def step(carry, token):
            return model.apply(variables, carry, token, attention=attention, method="step")

        carry = model.apply(
            variables, memory, method.width, method.max_length - 1, method="init_carry"
        )
        return method.decode(step, carry, index, tokenizer, attention=attention)

    return decode
