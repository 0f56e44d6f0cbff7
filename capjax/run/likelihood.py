"""Log-probabilities of given captions under a model. Shapes: see docs/architecture.md."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.batches import lay_out
from capjax.data.tokenizer import Tokenizer
from capjax.files.errors import ReportedError
from capjax.models.captioner import Captioner
from capjax.models.contract import Memory
from capjax.models.ensemble import Ensemble, EnsembleMemory
from capjax.parallel import devices
from capjax.train.loss import token_losses

# Lengths are rounded up to a multiple of this, and numbers of captions to powers of two, so that
# few shapes are compiled.
_BUCKET = 8
# Most logits in one call on all devices: 256 MiB.
_MOST_LOGITS = 2**26


class ScoreError(ReportedError, ValueError):
    """A caption can't be scored; the message names it."""


@dataclasses.dataclass(frozen=True)
class ScoredCaption:
    """A given caption and its log-probability.

    Attributes:
      text: the caption.
      log_prob: the sum of `log_probs`, in nats.
      tokens: its T tokens as text, with eos.
      log_probs: of each token given the image and the tokens before it; None for a word outside the
        vocabulary, which the model can't say and the sum leaves out, as the training loss does.
    """

    text: str
    log_prob: float
    tokens: tuple[str, ...]
    log_probs: tuple[float | None, ...]

    def __str__(self) -> str:
        return self.text


def encode_given(
    tokenizer: Tokenizer, texts: Sequence[str], model: Captioner | Ensemble
) -> list[np.ndarray]:
    """Encodes captions as ids "words ... eos".

    Raises:
      ScoreError: a caption is longer than the model can be fed.
    """
    most = model.decoder.longest_caption
    encoded = [
        np.array([*ids, tokenizer.eos_id], np.int32) for ids in tokenizer.encode_batch(texts)
    ]
    for text, ids in zip(texts, encoded, strict=True):
        # The first token fed is bos, and eos is not fed.
        if most is not None and len(ids) > most:
            raise ScoreError(
                f"the caption {text[:60]!r} has {len(ids) - 1} tokens, and this model can be fed "
                f"{most - 1}"
            )
    return encoded


def describe(
    tokenizer: Tokenizer, text: str, ids: np.ndarray, log_probs: np.ndarray
) -> ScoredCaption:
    """A caption with the log-probabilities of its tokens `ids`."""
    said = [token not in tokenizer.banned_ids for token in ids.tolist()]
    return ScoredCaption(
        text=text,
        log_prob=float(log_probs.sum()),
        tokens=tuple(tokenizer.word(token) for token in ids),
        log_probs=tuple(
            float(value) if real else None for value, real in zip(log_probs, said, strict=True)
        ),
    )


def totals(
    scored: Iterable[tuple[int, Sequence[np.ndarray]]], count: int, captions: Sequence[np.ndarray]
) -> np.ndarray:
    """The log-probability of every caption with each of `count` images, float32 [I, captions].

    Args:
      scored: (index, log-probabilities of the tokens of all captions) of every image.
      count: I.
      captions: the captions.
    """
    found = np.zeros((count, len(captions)), np.float32)
    for index, values in scored:
        found[index] = [tokens.sum() for tokens in values]
    return found


class Likelihood:
    """Scores given captions of batches of images with one model; encodes each image once."""

    def __init__(
        self, model: Captioner | Ensemble, tokenizer: Tokenizer, *, together: bool = False
    ):
        """Prepares the scores; nothing is compiled yet.

        Args:
          model: the captioner.
          tokenizer: has the special ids.
          together: True if each batch holds the rows of this process only. Every process then
            yields the scores of all rows, and all processes must take part.
        """
        self._tokenizer, self._together = tokenizer, together
        self._vocab_size, self._longest = tokenizer.vocab_size, model.decoder.longest_caption

        def encode(variables: Any, images: jax.Array) -> Memory | EnsembleMemory:
            return model.apply(variables, images, method="encode")

        def score(
            variables: Any,
            memory: Memory | EnsembleMemory,
            tokens: jax.Array,
            lengths: jax.Array,
        ) -> jax.Array:
            output = model.apply(variables, memory, tokens[..., :-1], method="decode")
            real = jnp.arange(tokens.shape[-1] - 1) < lengths[..., None]
            banned = model.decoder.banned
            return -token_losses(output.logits, tokens[..., 1:], real, banned=banned).nll

        self._encode = devices.map_local(encode)
        self._score = devices.map_local(score)

    def __call__(
        self,
        variables: Any,
        batches: Iterable[Mapping[str, np.ndarray]],
        captions: Sequence[Sequence[np.ndarray]],
    ) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yields (index, log-probabilities of the tokens of each of its captions) of every image.

        Args:
          variables: replicated.
          batches: as those of `CaptionBatches`.
          captions: for each image, by its index, encoded captions "words ... eos".
        """
        for batch in batches:
            images = batch["image"] if "image" in batch else batch["features"]
            index = batch["index"]
            memory = self._encode(variables, devices.shard(images))
            rows = [captions[i] if i >= 0 else () for i in index.tolist()]
            # Processes that work together must agree on the shapes.
            parts = []
            for tokens, lengths in self._chunks(rows, captions if self._together else rows):
                inputs = devices.shard((tokens, lengths))
                found = (devices.unshard(self._score(variables, memory, *inputs)), lengths)
                parts.append(devices.gather(found) if self._together else found)
            if self._together:
                index = devices.gather(index)
            for row in np.flatnonzero(index >= 0):
                scored = [
                    values[row, place, :length]
                    for values, lengths in parts
                    for place, length in enumerate(lengths[row])
                    if length
                ]
                yield int(index[row]), scored

    def _chunks(
        self, rows: Sequence[Sequence[np.ndarray]], like: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Lays out the captions of rows in arrays of a bounded size; shapes depend on `like`."""
        most = max(map(len, like), default=0)
        longest = max((len(ids) for captions in like for ids in captions), default=0)
        length = min(longest + -longest % _BUCKET, self._longest or longest + _BUCKET)
        if not most:
            return
        fit = max(1, _MOST_LOGITS // (len(rows) * length * self._vocab_size))
        width = 1 << min(fit.bit_length() - 1, (most - 1).bit_length())
        for start in range(0, most, width):
            part = [captions[start : start + width] for captions in rows]
            yield lay_out(part, width, length, self._tokenizer)
