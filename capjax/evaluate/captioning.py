"""Captions for batches of images, decoded on all devices. Shapes: see docs/architecture.md."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.tokenizer import Tokenizer
from capjax.decode.beam import beam_search
from capjax.decode.sampling import sample
from capjax.files.errors import ReportedError
from capjax.models.captioner import Captioner
from capjax.models.contract import Memory
from capjax.parallel import devices


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=["num_beams", "length_penalty", "early_stopping", "max_length"],
)
@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Settings of beam search, with the meaning they have in `transformers.generate`.

    A pytree without leaves: each setting is compiled separately.

    Attributes:
      num_beams: K; 1 is greedy.
      length_penalty: exponent of the length that divides the log-probability of a hypothesis.
      early_stopping: True, False or "never".
      max_length: largest number of tokens, with bos and eos.
    """

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_length: int

    @property
    def label(self) -> str:
        """Part of the name of result files."""
        return (
            f"beam{self.num_beams}-lp{self.length_penalty:g}-max{self.max_length}-"
            f"early{str(self.early_stopping).lower()}"
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature", "seed"],
    meta_fields=["max_length", "top_k", "top_p", "min_p"],
)
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of sampling one caption for each image.

    A pytree: all temperatures and seeds share one compiled program.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      max_length: largest number of tokens, with bos and eos.
      seed: random seed.
      top_k: draws from the k likeliest tokens; None for all.
      top_p: draws from the likeliest tokens that have this probability together; None for all.
      min_p: draws from tokens with at least this share of the likeliest one's probability; None for
        all.
    """

    temperature: float
    max_length: int
    seed: int = 0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    @property
    def label(self) -> str:
        """Part of the name of result files."""
        limits = "" if self.top_k is None else f"-topk{self.top_k}"
        limits += "" if self.top_p is None else f"-topp{self.top_p:g}"
        limits += "" if self.min_p is None else f"-minp{self.min_p:g}"
        return f"temperature{self.temperature:g}{limits}-max{self.max_length}-seed{self.seed}"


Method = BeamSearch | Sampling


class CaptionError(ReportedError, ValueError):
    """A model gives no caption; the message says why."""


@dataclasses.dataclass(frozen=True)
class Caption:
    """A generated caption of one image.

    Attributes:
      text: the caption.
      log_prob: log-probability under the model, in nats.
      score: length-normalised log-probability for beam search, otherwise `log_prob`.
      finished: True if it ended with eos, False if it was truncated at the length limit.
      words: text of each of the T tokens without eos.
      attention: float32 [T, N, P], or None if not requested.
      grid: (h, w) of the spatial memory positions; P == prefix + h * w.
      prefix: number of memory positions before the grid.
      layers: number of layers; the N maps are the heads of the first layer, then the second, ...
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

    def __str__(self) -> str:
        return self.text


class CaptionBatches:
    """Captions batches of images with one model.

    Compiles once for each batch shape, each `BeamSearch` and each `max_length` of `Sampling`.
    """

    def __init__(
        self,
        model: Captioner,
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
        self._grid: tuple[tuple[int, int], int] | None = None

        def decode(
            variables: Any, method: Method, images: jax.Array, index: jax.Array
        ) -> dict[str, jax.Array]:
            memory = model.apply(variables, images, method="encode")
            self._grid = (memory.grid, memory.prefix)  # Static, so known at tracing.
            decode = make_decode(model, tokenizer, method, attention=attention)
            return decode(variables, memory, index)

        self._decode = devices.map_local(decode)

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
          ValueError: a temperature below 0.
          CaptionError: the model gives an image no token with a finite log-probability.
        """
        if isinstance(method, Sampling) and method.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or positive: {method.temperature:g}")
        method = devices.replicate(method)
        for batch in batches:
            images = batch["image"] if "image" in batch else batch["features"]
            index = batch["index"]
            inputs = devices.shard((images, index))
            result = devices.unshard(self._decode(variables, method, *inputs))
            if self._together:
                result, index = devices.gather((result, index))
            for row in np.flatnonzero(index >= 0):
                if not np.isfinite(result["log_probs"][row]):
                    raise CaptionError(
                        f"image {index[row]}, counted from 0, has no caption: the model gives it "
                        "log-probabilities that are NaN or infinite; take another checkpoint, or "
                        "config.dtype='float32' where it is 'bfloat16'"
                    )
                yield int(index[row]), self._caption(result, row)

    def _caption(self, result: dict[str, np.ndarray], row: int) -> Caption:
        finished = bool(result["finished"][row])
        count = int(result["lengths"][row]) - finished  # Without eos.
        ids = result["tokens"][row, :count].tolist()
        attention = result["attention"][row, :count] if self._attention else None
        grid, prefix = self._grid
        return Caption(
            text=self._tokenizer.decode(ids),
            log_prob=float(result["log_probs"][row]),
            score=float(result["scores"][row]),
            finished=finished,
            words=tuple(self._tokenizer.word(token) for token in ids),
            attention=attention,
            grid=grid if self._attention else None,
            prefix=prefix,
            layers=self._layers,
        )


def make_decode(
    model: Captioner, tokenizer: Tokenizer, method: Method, *, attention: bool
) -> Callable[[Any, Memory, jax.Array], dict[str, jax.Array]]:
    """Builds a per-device (variables, memory, index [B]) -> the best caption of each image.

    The result has tokens int32 [B, T] without bos, lengths int32 [B] with eos, scores and log_probs
    float32 [B], finished bool [B], and attention float32 [B, T, N, P] if requested. A sample
    depends on the index of its image, not on its batch or device.
    """
    ids = {name: getattr(tokenizer, name) for name in ("bos_id", "eos_id", "pad_id")}

    def decode(variables: Any, memory: Memory, index: jax.Array) -> dict[str, jax.Array]:
        def step(carry, token):
            return model.apply(variables, carry, token, attention=attention, method="step")

        width = method.num_beams if isinstance(method, BeamSearch) else 1
        carry = model.apply(variables, memory, width, method.max_length - 1, method="init_carry")
        common = {**ids, "max_length": method.max_length, "return_attention": attention}
        if isinstance(method, BeamSearch):
            result = beam_search(
                step,
                carry,
                num_beams=method.num_beams,
                length_penalty=method.length_penalty,
                early_stopping=method.early_stopping,
                **common,
            )
            maps = result.attention
        else:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(method.seed), index)
            result = sample(
                step,
                carry,
                keys,
                temperature=method.temperature,
                top_k=method.top_k,
                top_p=method.top_p,
                min_p=method.min_p,
                **common,
            )
            maps = result.attention[:, 0] if attention else None
        best = {
            "tokens": result.tokens[:, 0],
            "lengths": result.lengths[:, 0],
            "scores": (result.scores if isinstance(method, BeamSearch) else result.log_probs)[:, 0],
            "log_probs": result.log_probs[:, 0],
            "finished": result.finished[:, 0],
        }
        if attention:
            best["attention"] = maps.astype(jnp.float32)
        return best

    return decode
