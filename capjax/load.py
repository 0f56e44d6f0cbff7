"""A trained captioner from its workdir, ready to caption. Needs no TensorFlow."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from capjax import build, parallel, workdir
from capjax.data.reading import eval_batches
from capjax.data.source import Example
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import Caption, CaptionBatches, Method
from capjax.models.captioner import Captioner, Variables, join_frozen, split_frozen
from capjax.train.checkpoint import CheckpointError, Checkpoints


@dataclasses.dataclass
class Run:
    """A trained captioner.

    Attributes:
      config: the whole config that trained it.
      tokenizer: its tokenizer.
      model: the linen module.
      variables: its parameters, NumPy, the moving average where the run kept one; and what
        training did not change, such as a frozen encoder.
      step: updates that made them.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    model: Captioner
    variables: Variables
    step: int
    _ready: dict = dataclasses.field(default_factory=dict, repr=False)

    def caption(
        self,
        images: Sequence[Any],
        *,
        method: Method | None = None,
        attention: bool = False,
        batch_size: int | None = None,
    ) -> list[Caption]:
        """Captions images, in their order.

        Args:
          images: paths, encoded bytes, Pillow images or uint8 arrays [H, W, 3], in any mixture.
          method: a `BeamSearch` or `Sampling`; the run's own decoding settings by default.
          attention: whether each caption carries where the model looked.
          batch_size: images at once, at most; the run's evaluation batch by default.

        Raises:
          capjax.data.images.ImageError: naming the first image that can't be used.
        """
        method = method or build.beam_search(self.config.decoding)
        size = batch_size or self.config.evaluation.batch_size
        # A few images need no whole batch, and few sizes keep compilations few.
        size = min(size, 1 << max(len(images) - 1, 0).bit_length())
        size += -size % jax.local_device_count()
        # Kept, since each is compiled at its first use.
        if (method, attention) not in self._ready:
            self._ready[method, attention] = CaptionBatches(
                self.model, self.tokenizer, method, attention=attention
            )
        if "variables" not in self._ready:
            self._ready["variables"] = parallel.replicate(self.variables)
        batches = eval_batches(
            _Images(images),
            None,
            self.tokenizer,
            batch_size=size,
            resize=build.resize(self.config.dataset),
            num_threads=self.config.dataset.num_threads,
        )
        captions = self._ready[method, attention](self._ready["variables"], batches)
        found = dict(captions)
        return [found[index] for index in range(len(images))]


class _Images:
    """A user's images as a source."""

    name = "the images given"
    fingerprint = ""

    def __init__(self, images: Sequence[Any]):
        self._images = images
        self.selection = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        return Example(self._images[index], str(index), ())


def load(directory: str | os.PathLike, checkpoint: str | int = "best") -> Run:
    """Loads a trained captioner from its workdir.

    Args:
      directory: the workdir.
      checkpoint: "best" by the run's early-stopping metric, "latest", or a step, also as text.

    Raises:
      capjax.workdir.WorkdirError: it is no run, has no such checkpoint, or one that is damaged.
        Of "best" and "latest" a damaged one is named on stderr, and the next is taken.
    """
    directory = os.fspath(directory)
    config = workdir.load_config(directory)
    tokenizer = workdir.load_tokenizer(directory)
    with workdir.blamed(directory):
        model = build.captioner(config, tokenizer)
        shape = build.resize(config.dataset).shape
        like = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), shape))
        like, stays = split_frozen(like, *build.frozen_parts(config))
        opened = build.checkpoints(directory, config, read_only=True)
    with opened as checkpoints:
        steps = _choose_steps(checkpoints, checkpoint)
        try:
            step, params = checkpoints.first_whole(
                steps, lambda step: checkpoints.restore_params(step, like)
            )
        except CheckpointError as error:
            raise workdir.WorkdirError(str(error)) from error
    frozen = workdir.load_frozen(directory) if stays else {}
    workdir.check_frozen(directory, frozen, stays)
    variables = join_frozen(params, frozen)
    return Run(config, tokenizer, model, variables, step)


def _choose_steps(checkpoints: Checkpoints, checkpoint: str | int) -> list[int]:
    """The steps to try, one after another: only one where it is named."""
    steps = checkpoints.steps()
    if checkpoint == "best" and steps:
        return checkpoints.ranking()
    if checkpoint == "latest" and steps:
        return steps[::-1]
    step = checkpoint
    if isinstance(step, str) and step.isdecimal():  # As command lines give it.
        step = int(step)
    if step not in steps:
        there = f"there are steps {steps}, 'best' and 'latest'" if steps else "it has none yet"
        raise workdir.WorkdirError(
            f"{checkpoints.directory}: no checkpoint {checkpoint!r}; {there}"
        )
    return [step]
