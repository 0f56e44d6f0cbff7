"""CIDEr-D of token ids (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 5).

Shapes: see docs/architecture.md.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from capjax.metrics import ngrams
from capjax.metrics.ngrams import Idf

# As in pycocoevalcap.
_SIGMA = 6.0
_SCALE = 10.0


class CiderTable(NamedTuple):
    """What CIDEr-D knows of a corpus.

    Attributes:
      idf: inverse document frequencies of its n-grams.
      eos_id: the end token, int32 scalar.
    """

    idf: Idf
    eos_id: np.ndarray


@dataclasses.dataclass(frozen=True)
class CiderD:
    """CIDEr-D as pycocoevalcap computes it, from 0 to 10, with the idf of a given corpus.

    It compares the n-grams of a hypothesis with those of each reference by tokens, with counts
    clipped to the reference's and a Gaussian penalty (sigma 6) on the difference of lengths.

    The words are those of the tokenizer, not the PTB tokens of `capjax.metrics.coco`. For a
    tokenizer of pieces of words or of characters an n-gram is of n pieces, so it spans fewer words
    and the penalty is on the difference of pieces. A caption of each of Flickr8k's images against
    the other four has a correlation (of ranks) with the CIDEr-D of words of 0.978 (0.975) with
    4,000 pieces by byte-pair encoding, and of 0.924 (0.906) with 1,000.

    Attributes:
      end_token: whether the end token is a word of hypotheses, references and the corpus. Without
        it, captions that break off score as high as complete ones, and training by the reward
        learns to end badly. False equals pycocoevalcap on plain captions.
    """

    end_token: bool = True

    def prepare(
        self, references: Sequence[Sequence[np.ndarray]], *, eos_id: int, vocab_size: int
    ) -> CiderTable:
        """Counts document frequencies; see `Reward`."""
        corpus = [
            [ids if self.end_token else ids[ids != eos_id] for ids in captions]
            for captions in references
        ]
        return CiderTable(ngrams.prepare_idf(corpus), np.asarray(eos_id, np.int32))

    def __call__(
        self,
        table: CiderTable,
        hypotheses: jax.Array,
        hypothesis_lengths: jax.Array,
        references: jax.Array,
        reference_lengths: jax.Array,
    ) -> jax.Array:
        """See `Reward`."""
        eos_id, idf = table.eos_id, table.idf
        said = ngrams.words_of(
            hypotheses, hypothesis_lengths, eos_id, end_token=self.end_token, reference=False
        )
        given = ngrams.words_of(
            references, reference_lengths, eos_id, end_token=self.end_token, reference=True
        )
        cosines = jnp.zeros(())
        for own, own_given, both, weight, weight_given in zip(
            ngrams.counts_within(said),
            ngrams.counts_within(given),
            ngrams.counts_in(said, given),
            ngrams.look_up(idf, said),
            ngrams.look_up(idf, given),
            strict=True,
        ):
            # A sum over places counts an n-gram as often as it occurs: [K, B] and [R, B].
            norm = jnp.sqrt((own * weight**2).sum(axis=0))
            norm_given = jnp.sqrt((own_given * weight_given**2).sum(axis=0))
            share = weight**2 / own
            product = (jnp.minimum(both, own[:, :, None]) * both * share[:, :, None]).sum(axis=0)
            norms = norm[:, None] * norm_given
            cosines += jnp.where(norms > 0, product / jnp.where(norms > 0, norms, 1.0), 0.0)
        # pycocoevalcap takes the number of bigrams for the length.
        length = jnp.maximum(said.size - 1, 0)[:, None]
        difference = length - jnp.maximum(given.size - 1, 0)
        penalty = jnp.exp(-(difference**2) / (2 * _SIGMA**2))
        scores = (cosines * penalty).sum(axis=1) / jnp.maximum(given.exists.sum(axis=0), 1)
        return (_SCALE / ngrams.LONGEST * scores).T


PART = CiderD
