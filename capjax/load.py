"""A trained captioner from its workdir, ready to caption. Needs no TensorFlow."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from capjax import build, parallel, workdir
from capjax.data.images import load_pixels
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import Caption, CaptionBatches, Method
from capjax.models.captioner import Captioner
from capjax.train.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained captioner.

    Attributes:
      config: the whole config that trained it.
      tokenizer: its tokenizer.
      model: the linen module.
      params: its parameters, NumPy; the moving average where the run kept one.
      step: updates that made them.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    model: Captioner
    params: Any
    step: int

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
          batch_size: images at once; the run's evaluation batch by default, so that these are
            the very captions of `--mode evaluate`.

        Raises:
          capjax.data.images.ImageError: naming the first image that can't be used.
        """
        method = method or build.beam_search(self.config.decoding)
        size = batch_size or self.config.evaluation.batch_size
        size += -size % jax.local_device_count()
        search = CaptionBatches(self.model, self.tokenizer, method, attention=attention)
        batches = self._batches(images, size)
        found = dict(search(parallel.replicate(self.params), batches))
        return [found[index] for index in range(len(images))]

    def _batches(self, images: Sequence[Any], size: int) -> Iterator[dict[str, np.ndarray]]:
        side = self.config.dataset.image_size
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in range(0, len(images), size):
                part = images[start : start + size]
                pixels = np.zeros((size, side, side, 3), np.uint8)
                for row, loaded in enumerate(pool.map(lambda one: load_pixels(one, side), part)):
                    pixels[row] = loaded
                index = np.arange(start, start + size, dtype=np.int32)
                index[len(part) :] = -1
                yield {"image": pixels, "index": index}


def load(directory: str | os.PathLike, checkpoint: str | int = "best") -> Run:
    """Loads a trained captioner from its workdir.

    Args:
      directory: the workdir.
      checkpoint: "best" by the run's early-stopping metric, "latest", or a step.

    Raises:
      capjax.workdir.WorkdirError: it is no run, or has no such checkpoint.
    """
    directory = os.fspath(directory)
    config = workdir.load_config(directory)
    tokenizer = workdir.load_tokenizer(directory)
    model = build.captioner(config, tokenizer)
    side = config.dataset.image_size
    like = jax.eval_shape(lambda: model.init_params(jax.random.key(0), (side, side, 3)))
    with build.checkpoints(directory, config, read_only=True) as checkpoints:
        step = _choose_step(checkpoints, checkpoint)
        params = checkpoints.restore_params(step, like)
    return Run(config, tokenizer, model, params, step)


def _choose_step(checkpoints: Checkpoints, checkpoint: str | int) -> int:
    named = {"best": checkpoints.best_step, "latest": checkpoints.latest_step}
    step = named[checkpoint]() if checkpoint in named else checkpoint
    steps = checkpoints.steps()
    if step not in steps:
        there = f"there are steps {steps}, 'best' and 'latest'" if steps else "it has none yet"
        raise workdir.WorkdirError(
            f"{checkpoints.directory}: no checkpoint {checkpoint!r}; {there}"
        )
    return step
