"""One split of a run's dataset, ready to train on or to evaluate: pixels, or cached features."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from capjax import parallel
from capjax.data.augment import Augmentation
from capjax.data.batches import TrainBatches
from capjax.data.captions import CaptionTable, EncodedCaptions, encode_captions
from capjax.data.feature_batches import eval_feature_batches, train_feature_batches
from capjax.data.feature_cache import FeatureCache, FeatureShape, open_features
from capjax.data.reading import eval_batches, read_batches, read_pixels
from capjax.data.sections import cache_dir
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.models.captioner import Captioner, FeatureEncoder, Variables
from capjax.pretrained.variables import fingerprint

Batches = Iterator[dict[str, np.ndarray]]

# Raised when the same key would give other features.
_FORMAT = "capjax features 1"


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's images and captions, and their features where the encoder's are cached.

    Attributes:
      config: of the run.
      source: the images.
      table: its raw captions.
      encoded: the same as token ids.
      tokenizer: which made them.
      features: of the images, or None.
    """

    config: ConfigDict
    source: Source
    table: CaptionTable
    encoded: EncodedCaptions
    tokenizer: Tokenizer
    features: FeatureCache | None = None

    def train_batches(self, first_step: int) -> Batches:
        """Training batches from a step on, without end."""
        config, dataset = self.config, self.config.dataset
        plan = {
            "batch_size": config.batch_size,
            "captions_per_image": dataset.captions_per_image,
            "seed": config.seed,
            "length_bucket": dataset.length_bucket or None,
            "packed": dataset.packed,
        }
        if self.features is not None:
            batches = TrainBatches(self.encoded, self.tokenizer, **plan)
            return train_feature_batches(self.features, batches, first_step=first_step)
        # Here, because it needs TensorFlow and nothing else does.
        from capjax.data.pipeline import train_batches

        return train_batches(
            self.source,
            self.encoded,
            self.tokenizer,
            **plan,
            image_size=dataset.image_size,
            augmentation=Augmentation(dataset.crop_area, dataset.flip),
            first_step=first_step,
            num_threads=dataset.num_threads,
        )

    def eval_batches(self) -> Batches:
        """Each image of the split once, in order."""
        size = self.config.evaluation.batch_size
        if self.features is not None:
            return eval_feature_batches(
                self.features, self.encoded, self.tokenizer, batch_size=size
            )
        return eval_batches(
            self.source,
            self.encoded,
            self.tokenizer,
            batch_size=size,
            image_size=self.config.dataset.image_size,
            num_threads=self.config.dataset.num_threads,
        )

    def samples(self, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Pixels of the first images, uint8 [S, H, W, 3], and the model's input for them."""
        index = np.arange(min(count, len(self.source)))
        size = self.config.dataset.image_size
        pixels = np.array([read_pixels(self.source, i, size) for i in index])
        if self.features is None:
            return pixels, {"image": pixels}
        return pixels, {"features": self.features.read(index)}


def make_split(
    config: ConfigDict, source: Source, table: CaptionTable, tokenizer: Tokenizer
) -> Split:
    """A split of pixels."""
    section = config.dataset
    encoded = encode_captions(
        table, tokenizer, max_length=section.max_length, over_length=section.over_length
    )
    return Split(config, source, table, encoded, tokenizer)


def with_features(split: Split, encoder: nn.Module, variables: Variables) -> Split:
    """The same split with the features of a frozen encoder, computed where they are not there yet.

    Args:
      split: its images are read where features are missing.
      encoder: images -> Memory.
      variables: the encoder's own.

    Raises:
      DataError: there is no room for them, or what is there can't be used.
      ImageError: an image can't be used.
    """
    config = split.config
    side = config.dataset.image_size
    key = {
        "format": _FORMAT,
        "source": split.source.fingerprint,
        # The resize to a square and the scaling are `load_pixels`'s and the encoder's own.
        "image_size": side,
        "encoder": {n: v for n, v in config.encoder.items() if n not in ("weights", "frozen")},
        "compute": config.dtype,
        "weights": fingerprint(variables),
    }
    memory = jax.eval_shape(
        lambda x: encoder.apply(variables, x, train=False),
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8),
    )
    shape = FeatureShape(
        len(split.source),
        *memory.values.shape[1:],
        grid=memory.grid,
        prefix=memory.prefix,
        dtype=config.encoder.cache,
    )
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()

    def compute(batches: np.ndarray) -> Iterator[np.ndarray]:
        encode, placed = parallel.map_devices(make_encode(encoder)), parallel.replicate(variables)
        threads = config.dataset.num_threads
        for pixels in read_batches(split.source, batches, image_size=side, num_threads=threads):
            yield parallel.unshard(encode(placed, parallel.shard(pixels)))

    features = open_features(
        os.path.join(cache_dir(config.dataset), f"features-{digest[:32]}"),
        key,
        shape,
        compute,
        batch_size=config.evaluation.batch_size,
        name=split.source.name,
    )
    return dataclasses.replace(split, features=features)


def feature_model(model: Captioner, split: Split) -> Captioner:
    """The model without its encoder, over a split's cached features."""
    shape = split.features.shape
    return model.clone(encoder=FeatureEncoder(shape.grid, shape.prefix))


def make_encode(encoder: nn.Module):
    """A per-device (variables, images [b, H, W, 3]) -> features [b, P, F]."""

    def encode(variables: Variables, images: jax.Array) -> jax.Array:
        def values(images: jax.Array) -> jax.Array:
            return encoder.apply(variables, images, train=False).values

        # A CPU is held up by its memory, and one image's activations stay in its cache: 1.5 times
        # the images a second. An accelerator takes all images at once.
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda image: values(image[None])[0], images)
        return values(images)

    return encode


def source_record(source: Source) -> dict[str, Any]:
    """What results say of the data they were made on."""
    return {"name": source.name, "fingerprint": source.fingerprint, **source.selection}
