"""Images and captions of batch s: a pure function of the seed and s, in NumPy.

There is no state to save: a run that resumes at step s reads batch s. Shapes: see
docs/architecture.md; here I counts the images with captions.

Position p of the endless stream of images is image `permutation(epoch p // I)[p % I]`. Batches
are consecutive in the stream and cross the borders of epochs, so that no image is dropped: after
any number of windows the counts of two images differ by at most one. With length bucketing the
positions of a window of several batches are sorted by length before they are cut into batches,
and the batches of the window are shuffled.

A batch is padded to its longest caption, or it is packed: then it has the places of the captions'
tokens, so that a model computes on them and not on the padding between them.

Random numbers come from Philox, a counter-based generator (Salmon et al., 2011): the seed and the
purpose are its key, the number of the epoch, window or position is its counter. Another version of
NumPy may draw other numbers from it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from capjax.data.captions import EncodedCaptions
from capjax.data.tokenizer import Tokenizer

_EPOCH, _WINDOW, _CAPTIONS, AUGMENTATION, VIEW, DRAWS = range(6)


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """A random generator for these three; `purpose` is one of the constants above."""
    # The number is the counter's highest word, so that each has 2**192 blocks of its own.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, number]))


def host_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of the global batch that one host reads.

    Raises:
      ValueError: the hosts do not divide the batch, or there is no such host.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} must be a positive multiple of the {process_count} processes"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


class BatchPlan(NamedTuple):
    """The images of one global batch.

    Attributes:
      positions: int64 [B], positions in the endless stream of images.
      index: int32 [B], the images at these positions, as indices into the source.
    """

    positions: np.ndarray
    index: np.ndarray


class Schedule:
    """Plans the images of the training batch of any step."""

    def __init__(
        self,
        encoded: EncodedCaptions,
        *,
        batch_size: int,
        seed: int,
        sort_by: np.ndarray | None = None,
        bucket_window: int = 50,
    ):
        """Plans over the images that have captions.

        Args:
          encoded: the captions of the train split.
          batch_size: B, images in the global batch; it can exceed I.
          seed: must be in [0, 2**63).
          sort_by: a number for each image, such as a length; a batch has images of like numbers.
          bucket_window: batches in a window, cut to an epoch; larger windows sort better and
            shuffle less.

        Raises:
          ValueError: an argument is out of range, or no image has a caption.
        """
        for name, value in (("batch_size", batch_size), ("bucket_window", bucket_window)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), not {seed}")
        self._images = np.flatnonzero(encoded.tokens.counts).astype(np.int32)
        if not len(self._images):
            raise ValueError("there is nothing to train on: no image has a caption")
        self._sort_by = sort_by
        self._batch_size = batch_size
        self._seed = seed
        # Without sorting there is nothing to shuffle, so a window is one batch. A window of several
        # epochs would sort the repetitions of an image next to each other.
        epoch_batches = max(len(self._images) // batch_size, 1)
        self._window_batches = 1 if sort_by is None else min(bucket_window, epoch_batches)
        self._last_permutation = (-1, self._images)
        self._last_window = (-1, [])

    def __len__(self) -> int:
        """I, the images of an epoch."""
        return len(self._images)

    def __call__(self, step: int) -> BatchPlan:
        """The global batch of a step; cheap for consecutive steps, slower for others."""
        window, place = divmod(int(step), self._window_batches)
        # One tuple, so that threads see a matching pair.
        number, plans = self._last_window
        if number != window:
            plans = self._plan_window(window)
            self._last_window = (window, plans)
        return plans[place]

    def _plan_window(self, window: int) -> list[BatchPlan]:
        size = self._window_batches * self._batch_size
        positions = np.arange(window * size, (window + 1) * size)
        index = self._images_at(positions)
        if self._sort_by is not None:
            # Stable: images of equal length keep the epoch's random order.
            order = np.argsort(self._sort_by[index], kind="stable")
            positions, index = positions[order], index[order]
        shape = (self._window_batches, self._batch_size)
        rows = zip(positions.reshape(shape), index.reshape(shape), strict=True)
        plans = [BatchPlan(p, i) for p, i in rows]
        shuffled = generator(self._seed, _WINDOW, window).permutation(self._window_batches)
        return [plans[k] for k in shuffled]

    def _images_at(self, positions: np.ndarray) -> np.ndarray:
        """The images at consecutive positions, int32."""
        n = len(self)
        first, last = positions[0] // n, positions[-1] // n
        epochs = np.concatenate([self._permutation(int(e)) for e in range(first, last + 1)])
        return epochs[positions - first * n]

    def _permutation(self, epoch: int) -> np.ndarray:
        number, images = self._last_permutation
        if number != epoch:
            images = generator(self._seed, _EPOCH, epoch).permutation(self._images)
            self._last_permutation = (epoch, images)
        return images


class Batch(NamedTuple):
    """The B rows of one host, without pixels or features.

    Attributes:
      index: int32 [B], indices into the source; -1 for padding rows.
      tokens: int32 [B, C, T + 1], bos ... eos pad.
      lengths: int32 [B, C], see `lay_out`.
      packing: int32 [B, S], see `pack`; None where the batch is padded.
      prompt: int32 [B], tokens of the prompt with which captions begin; None for no prompt.
    """

    index: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    packing: np.ndarray | None = None
    prompt: np.ndarray | None = None

    def text(self) -> dict[str, np.ndarray]:
        """The arrays of the captions by name, without "index" and what is None."""
        found = {name: array for name, array in self._asdict().items() if array is not None}
        del found["index"]
        return found


class TrainBatches:
    """One host's share of every training batch: `batches(step) -> Batch`."""

    def __init__(
        self,
        encoded: EncodedCaptions,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        captions_per_image: int,
        seed: int,
        length_bucket: int | None = None,
        packed: bool = False,
        bucket_window: int = 50,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Plans the batches of one host.

        All hosts plan the same global batch, so they agree on T and S.

        Args:
          encoded: the captions of the train split.
          tokenizer: the one that encoded them.
          batch_size: images in the global batch; this host has B of them.
          captions_per_image: C; of an image with more, C are drawn anew each epoch.
          seed: for the order of images and the draw of captions.
          length_bucket: groups images of like length in a batch, and rounds its T (or S, when
            packed) up to a multiple of this; None for the same T and S in all batches.
          packed: whether batches have a packing, see `pack`.
          bucket_window: see `Schedule`.
          process_index: this host.
          process_count: number of hosts.

        Raises:
          ValueError: an argument is out of range, or the hosts do not divide the batch.
        """
        if captions_per_image < 1:
            raise ValueError(f"captions_per_image must be at least 1, not {captions_per_image}")
        if length_bucket is not None and length_bucket < 1:
            raise ValueError(f"length_bucket must be at least 1 or None, not {length_bucket}")
        self._rows = host_rows(batch_size, process_index, process_count)
        self._schedule = Schedule(
            encoded,
            batch_size=batch_size,
            seed=seed,
            sort_by=_lengths(encoded, np.add if packed else np.maximum) if length_bucket else None,
            bucket_window=bucket_window,
        )
        self._encoded, self._tokenizer = encoded, tokenizer
        self._captions_per_image, self._seed = captions_per_image, seed
        self._length_bucket, self._packed = length_bucket, packed

    def index(self, step: int) -> np.ndarray:
        """The images of a step, int32 [B], as indices into the source."""
        return self._schedule(step).index[self._rows]

    def positions(self, step: int) -> np.ndarray:
        """The positions of a step's images in the endless stream, int64 [B]."""
        return self._schedule(step).positions[self._rows]

    def __call__(self, step: int) -> Batch:
        """This host's rows of a step's batch."""
        plan = self._schedule(step)
        # For the whole global batch, whose lengths decide the shape on all hosts.
        chosen = [
            self._choose(self._encoded.tokens[image], int(position))
            for image, position in zip(plan.index, plan.positions, strict=True)
        ]
        lengths = [[len(ids) for ids in captions] for captions in chosen]
        captions_per_image, longest = self._captions_per_image, self._encoded.max_length
        own = chosen[self._rows]
        if self._packed:
            tokens, own_lengths = lay_out(own, captions_per_image, longest, self._tokenizer)
            size = self._round_up(max(map(sum, lengths)), captions_per_image * longest)
            packing = pack(own_lengths, longest, size)
        else:
            length = self._round_up(max(map(max, lengths)), longest)
            tokens, own_lengths = lay_out(own, captions_per_image, length, self._tokenizer)
            packing = None
        prompt = _prompts(self._encoded, len(own))
        return Batch(plan.index[self._rows], tokens, own_lengths, packing, prompt)

    def _round_up(self, length: int, limit: int) -> int:
        bucket = self._length_bucket or limit
        return min(-(-length // bucket) * bucket, limit)

    def _choose(self, captions: Sequence[np.ndarray], position: int) -> Sequence[np.ndarray]:
        if len(captions) <= self._captions_per_image:
            return captions
        # A position is one image in one epoch, with or without bucketing.
        order = generator(self._seed, _CAPTIONS, position).permutation(len(captions))
        return [captions[k] for k in order[: self._captions_per_image]]


def _lengths(encoded: EncodedCaptions, combine: np.ufunc) -> np.ndarray:
    """The sum or maximum (`combine`) of the caption lengths of each image."""
    return encoded.tokens.of_images(combine, encoded.tokens.lengths)


def eval_indices(
    images: int, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> np.ndarray:
    """One host's share of a split in order, padded to whole batches.

    No image is dropped or repeated, and all hosts have the same number of batches.

    Returns:
      int32 [batches, B], indices into the source; -1 for padding rows.

    Raises:
      ValueError: the hosts do not divide the batch.
    """
    rows = host_rows(batch_size, process_index, process_count)
    batches = -(-images // batch_size)
    index = np.full(batches * batch_size, -1, np.int32)
    index[:images] = np.arange(images)
    return index.reshape(batches, batch_size)[:, rows]


def eval_text(
    encoded: EncodedCaptions, index: np.ndarray, tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    """All captions of some images, see `Batch.text`, of one shape for all batches of a split.

    C is the most captions of an image of the split, at least 1; T is `encoded.max_length`. Padding
    rows, of index -1, have no captions.
    """
    captions = [encoded.tokens[i] if i >= 0 else () for i in index]
    most = max(encoded.most_captions, 1)
    tokens, lengths = lay_out(captions, most, encoded.max_length, tokenizer)
    return Batch(index, tokens, lengths, prompt=_prompts(encoded, len(index))).text()


def _prompts(encoded: EncodedCaptions, rows: int) -> np.ndarray | None:
    return np.full(rows, encoded.prompt, np.int32) if encoded.prompt else None


def lay_out(
    captions: Sequence[Sequence[np.ndarray]],
    captions_per_image: int,
    length: int,
    tokenizer: Tokenizer,
) -> tuple[np.ndarray, np.ndarray]:
    """Pads captions into one array.

    Masks must come from the lengths, not from tokens != pad: pad can be the id of eos or bos.

    Args:
      captions: at most C captions "words ... eos" for each of B images.
      captions_per_image: C.
      length: T.
      tokenizer: has the ids of bos and pad.

    Returns:
      tokens: int32 [B, C, T + 1], bos ... eos pad.
      lengths: int32 [B, C], tokens after bos, with eos; 0 where there is no caption.

    Raises:
      ValueError: an image has more than C captions, or a caption more than T tokens.
    """
    tokens = np.full((len(captions), captions_per_image, length + 1), tokenizer.pad_id, np.int32)
    lengths = np.zeros(tokens.shape[:2], np.int32)
    for row, of_image in enumerate(captions):
        if len(of_image) > captions_per_image:
            raise ValueError(f"{len(of_image)} captions do not fit into {captions_per_image} rows")
        for column, ids in enumerate(of_image):
            if len(ids) > length:
                raise ValueError(f"a caption of {len(ids)} tokens does not fit into {length}")
            tokens[row, column, 0] = tokenizer.bos_id
            tokens[row, column, 1 : len(ids) + 1] = ids
            lengths[row, column] = len(ids)
    return tokens, lengths


def pack(lengths: np.ndarray, length: int, size: int) -> np.ndarray:
    """Packs the tokens of each image's captions: their places among the C * T padded ones.

    Args:
      lengths: int32 [B, C], see `lay_out`.
      length: T.
      size: S, at least the most tokens of an image.

    Returns:
      int32 [B, S]: caption * T + place of each token in ascending order, then -1.
    """
    real = (np.arange(length) < lengths[..., None]).reshape(len(lengths), -1)
    packing = np.full((len(lengths), size), -1, np.int32)
    for row, places in enumerate(real):
        found = np.flatnonzero(places)
        packing[row, : len(found)] = found
    return packing
