"""Captions for batches of images: a decoding method, mapped over devices.

Legend: B images, K beams, T tokens, N attention maps, P memory positions.
"""

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
    """Beam search with the meaning that `transformers.generate` gives its fields.

    A pytree without leaves: each setting is its own program.

    Attributes:
      num_beams: 1 is greedy.
      length_penalty: exponent of the length that divides a hypothesis's log-probability.
      early_stopping: True, False or "never".
      max_length: tokens at most, bos and eos counted.
    """

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_length: int

    @property
    def label(self) -> str:
        """Names a result file."""
        return (
            f"beam{self.num_beams}-lp{self.length_penalty:g}-max{self.max_length}-"
            f"early{str(self.early_stopping).lower()}"
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature", "seed"],
    meta_fields=["max_length"],
)
@dataclasses.dataclass(frozen=True)
class Sampling:
    """One sample an image from the model's distribution.

    A pytree: one program samples at every temperature and with every seed.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      max_length: tokens at most, bos and eos counted.
      seed: of the samples.
    """

    temperature: float
    max_length: int
    seed: int = 0

    @property
    def label(self) -> str:
        """Names a result file."""
        return f"temperature{self.temperature:g}-max{self.max_length}-seed{self.seed}"


Method = BeamSearch | Sampling


@dataclasses.dataclass(frozen=True)
class Caption:
    """What a model says of one image.

    Attributes:
      text: the caption.
      log_prob: its log-probability under the model, in nats.
      score: what the search ranked by; for beam search the length-normalised log-probability.
      finished: whether it ended with eos, or was cut at the length limit.
      words: the text of each token, without eos.
      attention: float32 [len(words), N, P], or None when not asked for.
      grid: (h, w) of the memory's spatial positions; P == prefix + h * w.
      prefix: memory positions outside the grid.
      layers: of the N maps, N / layers are heads of the first, and so on.
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

    It is compiled once for each shape of a batch, each beam search and each length of samples.
    """

    def __init__(
        self,
        model: Captioner,
        tokenizer: Tokenizer,
        *,
        attention: bool = False,
        together: bool = False,
    ):
        """Prepares to caption.

        Args:
          model: the captioner.
          tokenizer: makes texts of its tokens.
          attention: asks for the weights of every word.
          together: batches are this process's rows of larger ones, and every process is given the
            captions of all rows; all processes take part.
        """
        self._tokenizer, self._together = tokenizer, together
        self._attention, self._layers = attention, model.decoder.attention_layers
        self._grid: tuple[tuple[int, int], int] | None = None

        def decode(
            variables: Any, method: Method, images: jax.Array, index: jax.Array
        ) -> dict[str, jax.Array]:
            memory = model.apply(variables, images, method="encode")
            self._grid = (memory.grid, memory.prefix)  # Static: known when this is traced.
            decode = make_decode(model, tokenizer, method, attention=attention)
            return decode(variables, memory, index)

        self._decode = devices.map_local(decode)

    def __call__(
        self, variables: Any, batches: Iterable[Mapping[str, np.ndarray]], method: Method
    ) -> Iterator[tuple[int, Caption]]:
        """Yields (index, caption) for every real row of the batches.

        Args:
          variables: replicated.
          batches: "image" [B, H, W, 3] or "features" [B, P, F], and "index" int32 [B], -1 in rows
            that only fill the batch; B divides over the local devices.
          method: how to decode.

        Raises:
          ValueError: a temperature below 0.
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
                yield int(index[row]), self._caption(result, row)

    def _caption(self, result: dict[str, np.ndarray], row: int) -> Caption:
        finished = bool(result["finished"][row])
        count = int(result["lengths"][row]) - finished  # The eos is no word.
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
    """A per-device (variables, memory, index [B]) -> the best caption of each image.

    A sample depends on its image's index, not on the batch or the device that it falls to.
    Its result has tokens int32 [B, T] without bos, lengths int32 [B] with eos, scores and
    log_probs float32 [B], finished bool [B], and attention float32 [B, T, N, P] when asked.
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
            result = sample(step, carry, keys, temperature=method.temperature, **common)
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
