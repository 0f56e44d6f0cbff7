"""All captions of a batch's images, and random numbers of each, for objectives that draw captions.

Shapes: see docs/architecture.md.
"""

from collections.abc import Sequence

import numpy as np

from capjax.data.batches import DRAWS, generator, lay_out
from capjax.data.ragged import Ragged
from capjax.data.tokenizer import Tokenizer


class References:
    """The captions of a split's images, whole: neither cut nor left out for their length."""

    def __init__(
        self, captions: Sequence[Sequence[np.ndarray]], tokenizer: Tokenizer, *, seed: int
    ):
        """Takes the captions of each image, each int32 "words ... eos".

        Args:
          captions: words outside the vocabulary have ids of their own beyond it.
          tokenizer: has the ids of bos and pad.
          seed: of the random numbers.
        """
        self.captions = captions if isinstance(captions, Ragged) else Ragged.of(captions)
        self._tokenizer, self._seed = tokenizer, seed
        # One shape for all batches: each would be compiled.
        self._most, self._longest = self.captions.counts.max(), self.captions.lengths.max()

    def __call__(self, index: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of the images `index` at these positions of the endless stream.

        Returns:
          "references": int32 [B, R, T], "words ... eos", then pad.
          "reference_lengths": int32 [B, R], tokens with eos; 0 where there is no caption.
          "keys": uint32 [B, 2], random numbers that depend on seed and position alone.
        """
        of_images = [self.captions[image] for image in index]
        tokens, lengths = lay_out(of_images, self._most, self._longest, self._tokenizer)
        keys = [
            generator(self._seed, DRAWS, int(position)).integers(2**32, size=2, dtype=np.uint32)
            for position in positions
        ]
        return {
            "references": tokens[..., 1:],
            "reference_lengths": lengths,
            "keys": np.array(keys),
        }
