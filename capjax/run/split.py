"""One split of a run's dataset, ready to train on or to evaluate."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator

import numpy as np
from ml_collections import ConfigDict

from capjax.config import build, questions
from capjax.config.errors import ConfigError
from capjax.data.augment import Augmentation
from capjax.data.batches import TrainBatches
from capjax.data.caption_cache import open_encoded
from capjax.data.captions import CaptionTable, EncodedCaptions
from capjax.data.feature_batches import eval_feature_batches, train_feature_batches
from capjax.data.feature_cache import FeatureCache
from capjax.data.reading import eval_batches, read_pixels
from capjax.data.references import References
from capjax.data.resize import Resize, Resizes
from capjax.data.sections import cache_dir
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.parallel import processes

_logger = logging.getLogger(__name__)

Batches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's images and captions, and the cached features of its images, if any.

    Attributes:
      config: the run's config.
      source: the images.
      table: the raw captions.
      encoded: the captions as token ids.
      tokenizer: made the token ids.
      references: all captions, if the objective needs them.
      views: cached features: first of whole images, then of random crops; empty if the model takes
        pixels.
    """

    config: ConfigDict
    source: Source
    table: CaptionTable
    encoded: EncodedCaptions
    tokenizer: Tokenizer
    references: References | None = None
    views: tuple[FeatureCache, ...] = ()

    @property
    def prompt(self) -> str:
        """The prompt of the training, as texts of captions have it; references do not."""
        return self.tokenizer.decode(self.tokenizer.encode(self.config.prompt))

    def train_batches(self, first_step: int) -> Batches:
        """Yields this process's rows of training batches from `first_step` on, without end."""
        config, dataset = self.config, self.config.dataset
        plan = {
            **_share(),
            "batch_size": config.batch_size,
            "captions_per_image": dataset.captions_per_image,
            "seed": config.seed,
            "length_bucket": dataset.length_bucket or None,
            "packed": dataset.packed,
        }
        if self.views:
            batches = TrainBatches(self.encoded, self.tokenizer, **plan)
            return train_feature_batches(
                self.views,
                batches,
                seed=config.seed,
                first_step=first_step,
                references=self.references,
            )
        # Imported here, because only this needs TensorFlow.
        from capjax.data.pipeline import train_batches

        return train_batches(
            self.source,
            self.encoded,
            self.tokenizer,
            **plan,
            resize=build.resize(dataset),
            augmentation=Augmentation(dataset.crop_area, dataset.flip),
            first_step=first_step,
            num_threads=dataset.num_threads,
            references=self.references,
        )

    def eval_batches(self, resize: Resize | Resizes | None = None) -> Batches:
        """Yields this process's rows of batches with each image of the split once, in order.

        Pixels are resized by `resize`, or by the config's.
        """
        size = self.config.evaluation.batch_size
        if self.views:
            return eval_feature_batches(
                self.views[0], self.encoded, self.tokenizer, batch_size=size, **_share()
            )
        return eval_batches(
            self.source,
            self.encoded,
            self.tokenizer,
            batch_size=size,
            resize=resize or build.resize(self.config.dataset),
            num_threads=self.config.dataset.num_threads,
            **_share(),
        )

    def samples(self, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Reads the first images: uint8 pixels [S, H, W, 3], and the model's input for them."""
        index = np.arange(min(count, len(self.source)))
        resize = build.resize(self.config.dataset)
        pixels = np.array([read_pixels(self.source, i, resize) for i in index])
        return pixels, {"features": self.views[0].read(index)} if self.views else {"image": pixels}


def _share() -> dict[str, int]:
    """This process's number and the count of processes, which select its rows of a batch."""
    return {"process_index": processes.index(), "process_count": processes.count()}


def make_split(
    config: ConfigDict, source: Source, table: CaptionTable, tokenizer: Tokenizer
) -> Split:
    """Encodes a split's captions, cached in `dataset.cache_dir`; it has no cached features.

    All processes call it together.

    Raises:
      ConfigError: captions leave no room for a word after the prompt.
      DataError: the cached file cannot be written.
    """
    section = config.dataset
    try:
        with processes.primary_first():
            encoded = open_encoded(
                table,
                tokenizer,
                cache_dir(section),
                max_length=section.max_length,
                over_length=section.over_length,
                prompt=config.prompt,
            )
    except ValueError as error:
        raise ConfigError(f"config.dataset.{error}") from error
    return Split(config, source, table, encoded, tokenizer)


def import_reader(config: ConfigDict) -> None:
    """Begins to import what `Split.train_batches` needs for pixels, beside other work."""
    if not questions.is_cached(config):
        from capjax.data.pipeline import import_early

        import_early()


def log_notes(sources: Iterable[Source]) -> None:
    """Logs the notes of datasets that limit how their scores compare with others."""
    for source in sources:
        if note := source.selection.get("note"):
            _logger.info("%s: %s", source.name, note)
