"""Group-diverse beam search, as `transformers` had it until version 4.

Shapes: see docs/architecture.md.

1. An image's K beams are G groups of k = K / G, each with its own hypotheses.
2. At each step the groups choose their beams in turn, as `capjax.decode.beam` does with k beams.
   Before, each log-probability is lowered by the diversity penalty for each live beam of an earlier
   group of the image that was just extended by the same token. Processors come after that.
3. A group that is closed penalises no token.
4. The hypotheses of all groups, at most K, are ordered by score, which counts the penalties. Groups
   can find the same caption.

One group is beam search, and without a penalty all groups find the same. Vijayakumar et al. 2018,
"Diverse Beam Search for Improved Description of Complex Scenes", with their Hamming diversity.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from capjax.decode.beam import BestFirst, Rules, beam_search
from capjax.decode.hypotheses import BeamResult, Beams, Hypotheses, take, with_own_log_probs
from capjax.decode.loop import Step
from capjax.models.contract import Carry


def diverse_beam_search(
    step: Step,
    carry: Carry,
    *,
    num_beams: int,
    num_beam_groups: int,
    diversity_penalty: float,
    **options: Any,
) -> BeamResult:
    """Searches for captions that differ; see the module's docstring.

    Args:
      step: see `beam_search`, as for the other arguments that are not here.
      carry: of width K, with no token fed.
      num_beams: K.
      num_beam_groups: G, which divides K; 1 is beam search.
      diversity_penalty: what a log-probability loses for each beam of an earlier group with the
        token; at least 0.
      **options: the other options of `beam_search`.

    Raises:
      ValueError: an option is out of range, or carry or step do not match the options.
    """
    if num_beam_groups < 1 or num_beams % num_beam_groups:
        raise ValueError(
            f"num_beam_groups={num_beam_groups} must divide num_beams={num_beams} in equal groups"
        )
    if not diversity_penalty >= 0:
        raise ValueError(f"diversity_penalty={diversity_penalty} must be at least 0")
    if num_beam_groups == 1:
        return beam_search(step, carry, num_beams=num_beams, **options)
    groups = Groups(num_beam_groups, diversity_penalty)
    result = beam_search(step, carry, num_beams=num_beams, strategy=groups, **options)
    return with_own_log_probs(result)


@dataclasses.dataclass(frozen=True)
class Groups(BestFirst):
    """Points 1 to 4 of the module's docstring. The state is the `Beams` of each group.

    Attributes:
      count: G.
      penalty: the diversity penalty.
    """

    count: int
    penalty: float

    def start(self, batch: int, num_beams: int) -> list[Beams]:
        return [super().start(batch, num_beams // self.count)] * self.count

    def choose(
        self,
        state: list[Beams],
        rules: Rules,
        logits: jax.Array,
        history: jax.Array | None,
        time: jax.Array,
        lowered: jax.Array | None = None,
    ) -> tuple[list[Beams], Hypotheses]:
        batch, num_beams, vocabulary = logits.shape
        width = num_beams // self.count
        said = jnp.zeros((batch, vocabulary))  # How many beams of earlier groups chose the token.
        chosen, lives = [], []
        for group, before in enumerate(state):
            first = group * width
            mine = slice(first, first + width)
            after, live = super().choose(
                before,
                rules,
                logits[:, mine],
                None if history is None else history[:, mine],
                time,
                self.penalty * said[:, None] if group and self.penalty else None,
            )
            counts = before.open[:, None] & (live.sums > -jnp.inf)
            said = said.at[jnp.arange(batch)[:, None], live.tokens].add(counts)
            chosen.append(after)
            lives.append(_moved(live, first))
        return chosen, _join(lives)

    def open(self, state: list[Beams]) -> jax.Array:
        return jnp.stack([beams.open for beams in state]).any()

    def ends(self, state: list[Beams]) -> tuple[Hypotheses, None]:
        groups = [beams.hypotheses for beams in state]
        width = groups[0].beams.shape[1]
        ends = _join([_moved(ends, group * width) for group, ends in enumerate(groups)])
        _, order = lax.top_k(ends.scores, ends.scores.shape[1])
        return jax.tree.map(lambda leaf: take(leaf, order), ends), None


def _moved(hypotheses: Hypotheses, first: int) -> Hypotheses:
    """Those of a group, whose beams are numbered from `first` among the image's."""
    return dataclasses.replace(hypotheses, beams=hypotheses.beams + first)


def _join(groups: list[Hypotheses]) -> Hypotheses:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *groups)
