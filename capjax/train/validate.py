"""Evaluation of a state during training."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from capjax.data.captions import CaptionTable
from capjax.evaluate.attention_figures import attention_figure
from capjax.evaluate.captioning import Caption, CaptionBatches
from capjax.evaluate.figures import figure_pixels, save_figure
from capjax.evaluate.methods import Method, Sampling
from capjax.evaluate.scoring import Scorer, score_captions
from capjax.parallel import devices, processes
from capjax.train.state import TrainState
from capjax.train.writer import Writer

_logger = logging.getLogger(__name__)

# Captions of an evaluation on the terminal.
_SHOWN = 2

Batch = Mapping[str, np.ndarray]

# More than the captions of an image of Flickr8k or COCO, which one call so takes.
_CAPTIONS = 8


class TeacherForced:
    """Mean teacher-forced loss and accuracy, measured while batches are passed on.

    One pass over a split so gives both its loss and its captions.
    """

    def __init__(self, loss_step: Callable[[Any, Any], dict[str, jax.Array]], variables: Any):
        """Takes the step of `make_loss_step`, mapped over devices, and replicated variables."""
        self._loss_step, self._variables = loss_step, variables
        self._total = {"nll": 0.0, "correct": 0.0, "tokens": 0.0}

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Measures and yields the batches, which must have "tokens" and "lengths"."""
        for batch in batches:
            for part in _parts(batch):
                sums = devices.unreplicate(self._loss_step(self._variables, devices.shard(part)))
                self._total = {name: self._total[name] + float(sums[name]) for name in self._total}
            yield batch

    def metrics(self) -> dict[str, float]:
        """Mean loss (nats a token) and accuracy over all tokens so far; empty without tokens."""
        count = self._total["tokens"]
        if not count:
            return {}
        return {"loss": self._total["nll"] / count, "accuracy": self._total["correct"] / count}


def _parts(batch: Batch) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of a batch with at most `_CAPTIONS` captions of each image at once.

    Without it one image of many captions would multiply the logits of its whole split.
    """
    inputs = {name: value for name, value in batch.items() if name != "index"}
    tokens, lengths = inputs["tokens"], inputs["lengths"]
    if lengths.shape[1] <= _CAPTIONS:
        yield inputs
        return
    # Processes evaluate together, so that all need as many parts, all of one shape.
    places = (lengths > 0) * np.arange(1, lengths.shape[1] + 1)
    most = devices.gather(places.max(axis=1)).max()
    fill = (0, -lengths.shape[1] % _CAPTIONS)
    tokens, lengths = np.pad(tokens, ((0, 0), fill, (0, 0))), np.pad(lengths, ((0, 0), fill))
    for start in range(0, most, _CAPTIONS):
        few = slice(start, start + _CAPTIONS)
        yield {**inputs, "tokens": tokens[:, few], "lengths": lengths[:, few]}


@dataclasses.dataclass(frozen=True)
class Validation:
    """Scores a state on a split, and logs captions and attention of its first B images.

    Attributes:
      loss_step: the step of `make_loss_step`, mapped over devices.
      captions: captions the whole split.
      method: the run's decoding method.
      shown: captions the first B images, with attention.
      samplings: (name, sampling) pairs for the first B images.
      batches: () -> batches of the split, with "index", "tokens" and "lengths".
      table: ids and raw captions of the split.
      prompt: with which captions begin, but not the table's.
      pixels: uint8 [B, H, W, 3], the first B images.
      inputs: the same images as model inputs, {"image": ...} or {"features": ...}.
      scorers: further metrics.
      writer: receives texts and figures.
      figures: folder of the figures.
    """

    loss_step: Callable[[Any, Any], dict[str, jax.Array]]
    captions: CaptionBatches
    method: Method
    shown: CaptionBatches
    samplings: Sequence[tuple[str, Sampling]]
    batches: Callable[[], Iterator[Batch]]
    table: CaptionTable
    prompt: str
    pixels: np.ndarray
    inputs: Batch
    scorers: Sequence[Scorer]
    writer: Writer
    figures: str

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Evaluates a replicated state; returns metrics by name, the same in all processes."""
        variables = state.eval_variables
        forced = TeacherForced(self.loss_step, variables)
        batches = forced.watch(self.batches())
        captions = {
            self.table.image_ids[index]: caption.without(self.prompt).text
            for index, caption in self.captions(variables, batches, self.method)
        }

        def score_and_show() -> dict[str, float]:
            for image_id in self.table.image_ids[:_SHOWN]:
                _logger.info("step %d, %s: %s", step, image_id, captions[image_id])
            if len(self.pixels):
                self._show(step, variables)
            # METEOR's Java process takes longer than all the rest; `--mode evaluate` runs it.
            return score_captions(self.table, captions, self.scorers, meteor=False)

        # Broadcast so that all processes decide alike on early stopping.
        return {**forced.metrics(), **processes.broadcast_from_primary(score_and_show)}

    def _show(self, step: int, variables: Any) -> None:
        rows = []
        for name, sampling in self.samplings:
            for index, caption in self.shown(variables, [fill_batch(self.inputs)], sampling):
                figure = attention_figure(self.pixels[index], caption)
                path = f"step_{step:07d}/image_{index}_{name}.png"
                save_figure(figure, os.path.join(self.figures, path), dpi=60)
                # One group of TensorBoard an image: a group ends at the first slash.
                image_id = self.table.image_ids[index].replace("/", "_")
                self.writer.image(step, f"{index}_{image_id}/{name}", figure_pixels(figure))
                rows.append((index, name, caption))
        self.writer.text(step, "captions", samples_table(rows, self.table))


def fill_batch(inputs: Batch) -> dict[str, np.ndarray]:
    """Pads images to a multiple of the local devices, with rows of index -1."""
    (name, images), *_ = inputs.items()
    fill = -len(images) % jax.local_device_count()
    index = np.concatenate([np.arange(len(images)), np.full(fill, -1)]).astype(np.int32)
    return {name: np.concatenate([images, np.repeat(images[-1:], fill, axis=0)]), "index": index}


def samples_table(rows: Sequence[tuple[int, str, Caption]], table: CaptionTable) -> str:
    """Markdown table of (image index, method, caption) rows and the first reference."""
    lines = ["| image | how | caption |", "|---|---|---|"]
    for index in sorted({index for index, _, _ in rows}):
        said = [(name, caption.text) for row, name, caption in rows if row == index]
        said += [("reference", text) for text in table.captions[index][:1]]
        for name, text in said:
            lines.append(f"| {table.image_ids[index]} | {name} | {text} |")
    return "\n".join(lines)
