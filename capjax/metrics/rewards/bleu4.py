"""Smoothed BLEU-4 of a sentence, of token ids (Papineni et al. 2002; Lin and Och 2004).

Shapes: see docs/architecture.md.
"""

import dataclasses

import jax
import jax.numpy as jnp

from capjax.metrics import ngrams
from capjax.metrics.reward import WithoutCorpus


@dataclasses.dataclass(frozen=True)
class Bleu4(WithoutCorpus):
    """BLEU-4 of a sentence, from 0 to 1, whose precisions of 2 to 4 words have 1 added.

    Counts are clipped to the most of any reference, and the brevity penalty takes the closest
    reference length, the shorter of two, as pycocoevalcap does for a corpus. The precision of n > 1
    is (matches + 1) / (n-grams + 1), so that a caption without a common 4-gram has a BLEU above 0:
    "ORANGE: a Method for Evaluating Automatic Evaluation Metrics for Machine Translation", Lin and
    Och 2004. The words are as in `CiderD`.

    Attributes:
      end_token: whether the end token is a word.
    """

    end_token: bool = True

    def __call__(
        self,
        table: jax.Array,
        hypotheses: jax.Array,
        hypothesis_lengths: jax.Array,
        references: jax.Array,
        reference_lengths: jax.Array,
    ) -> jax.Array:
        """See `Reward`."""
        said = ngrams.words_of(
            hypotheses, hypothesis_lengths, table, end_token=self.end_token, reference=False
        )
        given = ngrams.words_of(
            references, reference_lengths, table, end_token=self.end_token, reference=True
        )
        product = jnp.ones(())
        counts = zip(ngrams.counts_within(said), ngrams.counts_in(said, given), strict=True)
        for n, (own, both) in enumerate(counts, start=1):
            # A sum over places counts an n-gram as often as it occurs.
            matches = (jnp.minimum(own, both.max(axis=2, initial=0)) / own).sum(axis=0)
            total = jnp.maximum(said.size - n + 1, 0)
            product *= (matches + (n > 1)) / jnp.maximum(total + (n > 1), 1)
        score = product ** (1 / ngrams.LONGEST)
        ratio = _closest(said.size, given) / jnp.maximum(said.size, 1)
        return (score * jnp.exp(jnp.minimum(1 - ratio, 0))).T


def _closest(size: jax.Array, given: ngrams.Words) -> jax.Array:
    """The closest reference length to each of `size` [K, B], the shorter of two."""
    most = jnp.iinfo(jnp.int32).max
    distance = jnp.where(given.exists, jnp.abs(given.size - size[:, None]), most)
    nearest = distance == distance.min(axis=1, keepdims=True, initial=most)
    return jnp.where(nearest, given.size, most).min(axis=1, initial=most)


PART = Bleu4
