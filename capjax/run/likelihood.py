"""Log-probabilities of given captions under a model. Shapes: see docs/architecture.md."""

import dataclasses
from collections import defaultdict
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

# Lengths are rounded up to a multiple of this, so that few shapes are compiled.
_BUCKET = 4
# Most captions of an image in a group, of which a call has one for each image of a batch.
_MOST_TOGETHER = 64
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
            places: jax.Array,
            tokens: jax.Array,
            lengths: jax.Array,
        ) -> jax.Array:
            memory = jax.tree.map(lambda leaf: leaf[places], memory)
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
        shape = None
        for batch in batches:
            images = batch["image"] if "image" in batch else batch["features"]
            own = batch["index"]
            memory = self._encode(variables, devices.shard(images))
            index = devices.gather(own) if self._together else own
            rows = len(own) // jax.local_device_count()
            shape = shape or self._shape(captions, rows)
            found = defaultdict[int, list[np.ndarray]](list)
            for places, owners, tokens, lengths in self._calls(own, index, captions, rows, *shape):
                inputs = devices.shard((places, tokens, lengths))
                values = devices.unshard(self._score(variables, memory, *inputs))
                scored = (owners, lengths, values)
                if self._together:
                    scored = devices.gather(scored)
                for owner, of_group, log_probs in zip(*scored, strict=True):
                    found[int(owner)] += [
                        one[:length]
                        for one, length in zip(log_probs, of_group, strict=True)
                        if length
                    ]
            for image in index[index >= 0].tolist():
                yield image, found[image]

    def _shape(self, captions: Sequence[Sequence[np.ndarray]], rows: int) -> tuple[int, int]:
        """Captions of a group, and tokens of a caption, with which padding costs the least.

        The same captions in the same order are often those of many images.
        """
        different = {id(of_image): of_image for of_image in captions}.values()
        longest = max((len(ids) for of_image in different for ids in of_image), default=0)
        length = min(longest + -longest % _BUCKET, self._longest or longest + _BUCKET)
        fit = max(1, _MOST_LOGITS // max(1, rows * length * self._vocab_size))
        widths = [1 << k for k in range(min(fit, _MOST_TOGETHER).bit_length())]
        # To attend to an image costs about as much as a caption, and is done once a group.
        cost = {w: sum(-(-len(c) // w) for c in captions) * (w + 1) for w in widths}
        return min(widths, key=lambda width: (cost[width], -width)), length

    def _calls(
        self,
        own: np.ndarray,
        index: np.ndarray,
        captions: Sequence[Sequence[np.ndarray]],
        rows: int,
        width: int,
        length: int,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Lays out the captions of images `own` in groups of `width`, `rows` groups a device.

        Yields arrays of one group in each row: the image's place on its device, its index, or -1
        without one, tokens, and lengths. There are as many calls as for any device of `index`.
        """

        def groups(images: np.ndarray) -> list[tuple[int, int, Sequence[np.ndarray]]]:
            return [
                (place, i, captions[i][start : start + width])
                for place, i in enumerate(images.tolist())
                if i >= 0
                for start in range(0, len(captions[i]), width)
            ]

        most = max(len(groups(images)) for images in index.reshape(-1, rows))
        of_device = [groups(images) for images in own.reshape(-1, rows)]
        for start in range(0, most, rows):
            part = [
                group for many in of_device for group in _padded(many[start : start + rows], rows)
            ]
            places, owners, texts = zip(*part, strict=True)
            tokens, lengths = lay_out(texts, width, length, self._tokenizer)
            yield np.array(places, np.int32), np.array(owners, np.int32), tokens, lengths


def _padded(groups: list, rows: int) -> list:
    return [*groups, *[(0, -1, ())] * (rows - len(groups))]
