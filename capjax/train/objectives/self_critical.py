"""Self-critical training: the policy gradient of a reward of sampled captions.

"Self-critical Sequence Training for Image Captioning" (Rennie et al. 2017); with the mean of the
other samples as baseline, "A Better Variant of Self-Critical Sequence Training" (Luo 2020).

Shapes: see docs/architecture.md; here T = max_length, the tokens of a sample.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from capjax.decode.sampling import SampleResult, restrict, sample
from capjax.metrics.reward import Reward, reward_of
from capjax.models.captioner import Captioner, Variables, join_frozen
from capjax.models.contract import Decoder, Memory
from capjax.models.stacks import unstacked
from capjax.parts.types import (
    Count,
    Given,
    Length,
    NotNegative,
    Positive,
    PositiveShare,
    RewardNames,
    RewardWeights,
)
from capjax.train.loss import token_losses
from capjax.train.objective import Batch, has_references, inputs, run

_DISTINCT = (1, 2)


@dataclasses.dataclass(frozen=True)
class SelfCritical:
    """Minus the expected reward of a sampled caption, with optional terms.

    Each image has K samples over one encoding, drawn without gradient. They are scored by teacher
    forcing for the gradient, so that a step needs the memory of a cross-entropy step with K
    captions an image. The objective is a sum over captions divided by the number of samples over
    all devices; a sum over tokens divided by their number would weight captions by their length.

    Its value has the gradient, but is not minus the reward.

    Attributes:
      samples: K.
      baseline: what a sample's reward is compared with: the "mean" of the image's other samples, or
        the reward of the "greedy" caption.
      rewards: registered names of the rewards that are summed.
      reward_weights: the weight of each.
      temperature: divides the logits, in the draw and in the gradient.
      top_p: draws from the likeliest tokens with this probability together. The gradient is that of
        the probabilities among them, with the set as a constant; it includes the drawn token even
        if rounding tells the two passes apart.
      max_length: T, with eos.
      dropout: whether dropout acts: on the memory in draw and gradient alike, in the decoder only
        in the gradient.
      cross_entropy_weight: weight of the cross-entropy of the batch's captions, a mean per token.
      kl_weight: weight of the divergence, a mean per sample, of the distribution that samples are
        drawn from, from that of the starting parameters (at the same temperature, all tokens). Its
        gradient is exact, too: what later tokens cost counts as a negative reward.
      label_smoothing: of the cross-entropy.
      bos_id, eos_id, pad_id: of the tokenizer.
      prompt: tokens before each sample, which count as given.
      log_every: steps between those that compute the divergence where it has no weight.
    """

    samples: Count = 5
    baseline: Literal["mean", "greedy"] = "mean"
    rewards: RewardNames = ("cider_d",)
    reward_weights: RewardWeights = (1.0,)
    temperature: Positive = 1.0
    top_p: PositiveShare = 1.0
    max_length: Length = 20
    dropout: bool = False
    cross_entropy_weight: NotNegative = 0.0
    kl_weight: NotNegative = 0.0
    label_smoothing: Given[float] = 0.0
    attention_penalty: Given[float] = 0.0
    own_words: Given[Callable[[jax.Array], jax.Array] | None] = None
    bos_id: Given[int] = 0
    eos_id: Given[int] = 0
    pad_id: Given[int] = 0
    prompt: Given[tuple[int, ...]] = ()
    log_every: Given[int] = 1
    _reward: Reward = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.samples < 2 and self.baseline == "mean":
            raise ValueError(
                f"objective.samples={self.samples} must be 2 or more with objective.baseline="
                "'mean', which is that of an image's other samples; 1 needs 'greedy'"
            )
        try:
            reward = reward_of(self.rewards, self.reward_weights)
        except ValueError as error:
            raise ValueError(f"objective.{error}") from error
        object.__setattr__(self, "_reward", reward)
        if self.own_words is not None:
            raise ValueError(
                "scheduled_sampling.kind must be 'none' with config.objective.name="
                "'self_critical', which feeds a decoder nothing but its own words"
            )
        if self.attention_penalty:
            raise ValueError(
                f"attention_penalty={self.attention_penalty} must be 0 with config.objective.name="
                "'self_critical'"
            )
        if self.label_smoothing and not self.cross_entropy_weight:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} must be 0 with config.objective.name="
                "'self_critical', unless config.objective.cross_entropy_weight is above 0"
            )

    def check_decoder(self, decoder: Decoder) -> None:
        """Raises ValueError for a decoder whose samples it can't score."""
        if decoder.draws_locations:
            raise ValueError(
                "decoder.attention='hard' does not go with config.objective.name='self_critical': "
                "it scores a caption by drawn places, and not by those of the sample"
            )
        longest = decoder.longest_caption
        if longest is not None and self._longest > longest:
            without = f", without the {len(self.prompt)} tokens of the prompt" * bool(self.prompt)
            raise ValueError(
                f"objective.max_length={self.max_length} must be at most "
                f"{longest - len(self.prompt)}, the decoder's max_length{without}"
            )

    @property
    def _longest(self) -> int:
        """The tokens that a decoder is fed at most: the last one is not."""
        return self.max_length + len(self.prompt)

    def prepare(
        self,
        references: Sequence[Sequence[np.ndarray]],
        params: Any,
        *,
        eos_id: int,
        vocab_size: int,
    ) -> dict[str, Any]:
        """The table of the reward, and the starting parameters; see `Prepared`."""
        table = self._reward.prepare(references, eos_id=eos_id, vocab_size=vocab_size)
        return {"table": table, "began": params}

    def share(
        self,
        model: Captioner,
        variables: Variables,
        batch: Batch,
        *,
        counts: dict[str, jax.Array],
        step: jax.Array,
        key: jax.Array,
        baseline: None,
        constants: dict[str, Any],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `Objective`."""
        del baseline
        on = {"train": self.dropout, "rngs": {"dropout": key}}
        memory = model.apply(variables, inputs(batch), method="encode", **on)
        drawn = self._draw(model, variables, memory, batch, self.samples, self.temperature)
        reward = self._rewards(constants["table"], drawn, batch)

        on["rngs"] = {"dropout": jax.random.fold_in(key, 1)}
        logits = self._logits(model, variables, memory, drawn, **on)
        real = jnp.arange(self.max_length) < drawn.lengths[..., None]
        log_prob = -token_losses(logits, drawn.tokens, real).nll.sum(axis=-1)

        def divergence() -> jax.Array:
            began = join_frozen(constants["began"], variables)
            there = model.apply(began, inputs(batch), method="encode")
            others = self._logits(model, began, there, drawn, restricted=False)
            return jnp.where(real, token_divergence(logits, others), 0.0).sum(axis=-1)

        if self.kl_weight:
            kl = divergence()
        else:
            logged = ((step + 1) % self.log_every == 0) | (step == 0)
            kl = jax.lax.cond(logged, divergence, lambda: jnp.zeros_like(log_prob))
        kl_cost = self.kl_weight * jax.lax.stop_gradient(kl)
        if self.baseline == "mean":
            total = (reward - kl_cost).sum(axis=1, keepdims=True)
            advantage = reward - kl_cost
            advantage -= (total - advantage) / (self.samples - 1)
        else:
            greedy = self._draw(model, variables, memory, batch, 1, 0.0)
            advantage = reward - kl_cost - self._rewards(constants["table"], greedy, batch)

        # [B, 1]: a row without references has no weight.
        weight = has_references(batch)[:, None].astype(jnp.float32)
        loss = self.kl_weight * kl - jax.lax.stop_gradient(advantage) * log_prob
        share = (weight * loss).sum() / (self.samples * counts["images"])
        sums = {
            "reward": reward,
            "squared_reward": reward**2,
            "squared_advantage": advantage**2,
            "finished": drawn.finished,
            "length": drawn.lengths,
            "kl": kl,
        }
        sums |= {f"distinct_{n}": distinct(drawn.tokens, drawn.lengths, n) for n in _DISTINCT}
        sums = {name: (weight * value).sum() for name, value in sums.items()}
        if self.cross_entropy_weight:
            on["rngs"] = {"dropout": jax.random.fold_in(key, 2)}
            smoothing = self.label_smoothing
            losses = run(model, variables, batch, label_smoothing=smoothing, **on)[1].sums()
            share += self.cross_entropy_weight * losses["loss"] / counts["tokens"]
            sums |= losses
        return share, jax.lax.stop_gradient(sums)

    def scalars(
        self, sums: dict[str, jax.Array], counts: dict[str, jax.Array], step: jax.Array
    ) -> dict[str, jax.Array]:
        """Means over samples, and the standard deviations of reward and advantage."""
        del step
        captions = self.samples * counts["images"]
        mean = {name: value / captions for name, value in sums.items()}
        variance = mean["squared_reward"] - mean["reward"] ** 2
        return {
            "captions": captions,
            "reward": mean["reward"],
            "reward_spread": jnp.sqrt(jnp.maximum(variance, 0)),
            "advantage_spread": jnp.sqrt(mean["squared_advantage"]),
            "finished": mean["finished"],
            "length": mean["length"],
            "kl": mean["kl"],
            **{f"distinct_{n}": self.samples * mean[f"distinct_{n}"] for n in _DISTINCT},
        }

    def _draw(
        self,
        model: Captioner,
        variables: Variables,
        memory: Memory,
        batch: Batch,
        width: int,
        temperature: float,
    ) -> SampleResult:
        """Draws `width` captions an image, without gradient; 0 is greedy."""
        variables, memory = jax.lax.stop_gradient((unstacked(variables), memory))
        carry = model.apply(variables, memory, width, self._longest, method="init_carry")
        return sample(
            lambda carry, token: model.apply(variables, carry, token, method="step"),
            carry,
            jax.random.wrap_key_data(batch["keys"], impl="threefry2x32"),
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
            max_length=self._longest + 1,
            prompt=self.prompt,
            temperature=temperature,
            top_p=self.top_p if self.top_p < 1 and temperature else None,
        )

    def _rewards(self, table: Any, drawn: SampleResult, batch: Batch) -> jax.Array:
        """The reward of each sample, float32 [B, K]."""
        references = batch["references"], batch["reference_lengths"]
        return self._reward(table, drawn.tokens, drawn.lengths, *references)

    def _logits(
        self,
        model: Captioner,
        variables: Variables,
        memory: Memory,
        drawn: SampleResult,
        *,
        restricted: bool = True,
        train: bool = False,
        rngs: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Logits of what samples are drawn from, [B, K, T, V], by teacher forcing."""
        first = jnp.array((self.bos_id, *self.prompt), jnp.int32)
        first = jnp.broadcast_to(first, (*drawn.tokens.shape[:2], len(first)))
        fed = jnp.concatenate([first, drawn.tokens[..., :-1]], axis=-1)
        output = model.apply(variables, memory, fed, train=train, rngs=rngs, method="decode")
        logits = output.logits[:, :, len(self.prompt) :] / self.temperature
        if not restricted or self.top_p == 1:
            return logits
        inside = jnp.isfinite(restrict(jax.lax.stop_gradient(logits), top_p=self.top_p))
        inside |= jnp.arange(logits.shape[-1]) == drawn.tokens[..., None]
        return jnp.where(inside, logits, -jnp.inf)


def token_divergence(logits: jax.Array, others: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence of logits [..., V] from finite `others`, in nats, [...]."""
    log_probs = jax.nn.log_softmax(logits)
    gaps = jnp.where(jnp.isfinite(log_probs), log_probs - jax.nn.log_softmax(others), 0.0)
    return (jnp.exp(log_probs) * gaps).sum(axis=-1)


def distinct(tokens: jax.Array, lengths: jax.Array, n: int) -> jax.Array:
    """The share of different n-grams among all of an image's samples, [B, 1].

    `tokens` are int32 [B, K, T]; an image without any has 0.
    """
    count = tokens.shape[-1] - n + 1
    inside = jnp.arange(count) < lengths[..., None] - n + 1
    # n-grams that do not count come last.
    columns = [~inside, *(tokens[..., place : place + count] for place in range(n))]
    columns = [column.reshape(len(tokens), -1).astype(jnp.int32) for column in columns]
    columns = jax.lax.sort(columns, dimension=1, num_keys=len(columns))
    new = sum(jnp.abs(jnp.diff(column, axis=1, prepend=-1)) for column in columns[1:]) > 0
    counted = columns[0] == 0
    return (new & counted).sum(axis=1, keepdims=True) / jnp.maximum(
        counted.sum(1, keepdims=True), 1
    )


PART = SelfCritical
