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

from capjax.config import build
from capjax.data.augment import Augmentation, draw_view
from capjax.data.batches import TrainBatches
from capjax.data.captions import CaptionTable, EncodedCaptions, encode_captions
from capjax.data.feature_batches import eval_feature_batches, train_feature_batches
from capjax.data.feature_cache import FeatureCache, FeatureShape, open_features
from capjax.data.images import Resize
from capjax.data.reading import ViewOf, eval_batches, read_batches, read_pixels
from capjax.data.sections import cache_dir
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.models.captioner import Captioner, FeatureEncoder, Variables
from capjax.parallel import devices, processes
from capjax.pretrained.variables import fingerprint

Batches = Iterator[dict[str, np.ndarray]]

# Raised when the same key would give other features.
_FORMAT = "capjax features 2"

# Images that a CPU encodes at once, and the largest of which this was found to be the best number.
_AT_ONCE, _AT_ONCE_SIDE = 4, 256


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's images and captions, and their features where the encoder's are cached.

    Attributes:
      config: of the run.
      source: the images.
      table: its raw captions.
      encoded: the same as token ids.
      tokenizer: which made them.
      views: features of the whole images, and in training perhaps of crops of them; none where
        the model takes pixels.
    """

    config: ConfigDict
    source: Source
    table: CaptionTable
    encoded: EncodedCaptions
    tokenizer: Tokenizer
    views: tuple[FeatureCache, ...] = ()

    def train_batches(self, first_step: int) -> Batches:
        """This process's rows of training batches from a step on, without end."""
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
                self.views, batches, seed=config.seed, first_step=first_step
            )
        # Here, because it needs TensorFlow and nothing else does.
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
        )

    def eval_batches(self) -> Batches:
        """This process's rows of batches that have each image of the split once, in order."""
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
            resize=build.resize(self.config.dataset),
            num_threads=self.config.dataset.num_threads,
            **_share(),
        )

    def samples(self, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Pixels of the first images, uint8 [S, H, W, 3], and the model's input for them."""
        index = np.arange(min(count, len(self.source)))
        resize = build.resize(self.config.dataset)
        pixels = np.array([read_pixels(self.source, i, resize) for i in index])
        return pixels, {"features": self.views[0].read(index)} if self.views else {"image": pixels}


def _share() -> dict[str, int]:
    """Which rows of a batch are this process's."""
    return {"process_index": processes.index(), "process_count": processes.count()}


def make_split(
    config: ConfigDict, source: Source, table: CaptionTable, tokenizer: Tokenizer
) -> Split:
    """A split of pixels."""
    section = config.dataset
    encoded = encode_captions(
        table, tokenizer, max_length=section.max_length, over_length=section.over_length
    )
    return Split(config, source, table, encoded, tokenizer)


def with_features(
    split: Split, encoder: nn.Module, variables: Variables, *, views: int = 1
) -> Split:
    """The same split with the features of a frozen encoder, computed where they are not there yet.

    Every process needs all features, since a shuffle may give it any image. They are computed on
    one process's devices while the others wait: the first's where all see one disk, and then also
    one's of each host that has a disk of its own.

    Args:
      split: its images are read where features are missing.
      encoder: images -> Memory.
      variables: the encoder's own.
      views: features an image: of the whole, and of so many random crops and flips less one, as
        the config's dataset section has them.

    Raises:
      DataError: there is no room for them, or what is there can't be used.
      ImageError: an image can't be used.
    """
    weights = fingerprint(variables)
    with processes.first_alone():
        opened = [_open_view(split, encoder, variables, weights, view) for view in range(views)]
    return dataclasses.replace(split, views=tuple(opened))


def _open_view(
    split: Split, encoder: nn.Module, variables: Variables, weights: str, view: int
) -> FeatureCache:
    """Features of whole images for view 0, of one random crop of each for another."""
    config, dataset = split.config, split.config.dataset
    resize = build.resize(dataset)
    memory = jax.eval_shape(
        lambda x: encoder.apply(variables, x, train=False),
        jax.ShapeDtypeStruct((1, *resize.shape), jnp.uint8),
    )
    key = {
        "format": _FORMAT,
        "source": split.source.fingerprint,
        # The scaling of pixels is the encoder's own.
        **_resize_key(resize),
        # Some of them, such as a ViT's activation, change no shape of the weights.
        "encoder": build.encoder_fields(config),
        "compute": config.dtype,
        "weights": weights,
        "view": [view, dataset.crop_area, dataset.flip] if view else None,
    }
    shape = FeatureShape(
        len(split.source),
        *memory.values.shape[1:],
        grid=memory.grid,
        prefix=memory.prefix,
        dtype=config.encoder.cache,
    )

    def view_of(index: int) -> ViewOf:
        augmentation = Augmentation(dataset.crop_area, dataset.flip)
        return lambda size: draw_view(augmentation, view, index, size)

    def compute(batches: np.ndarray) -> Iterator[np.ndarray]:
        encode, placed = devices.map_local(make_encode(encoder)), devices.replicate(variables)
        for pixels in read_batches(
            split.source,
            batches,
            resize=resize,
            num_threads=dataset.num_threads,
            view_of=view_of if view else None,
        ):
            yield devices.unshard(encode(placed, devices.shard(pixels)))

    digest = hashlib.sha256(
        json.dumps({**key, "dtype": shape.dtype}, sort_keys=True).encode()
    ).hexdigest()
    return open_features(
        os.path.join(cache_dir(dataset), f"features-{digest[:32]}"),
        key,
        shape,
        compute,
        # What an evaluation gives one process's devices, too.
        batch_size=config.evaluation.batch_size // processes.count(),
        name=f"{split.source.name}, view {view}" if view else split.source.name,
    )


def _resize_key(resize: Resize) -> dict[str, Any]:
    """What says how images became squares; of a plain resize its side alone."""
    fields = dataclasses.asdict(resize)
    return {
        "image_size": fields.pop("size"),
        **({"resize": fields} if resize != Resize(resize.size) else {}),
    }


def feature_model(model: Captioner, split: Split) -> Captioner:
    """The model without its encoder, over a split's cached features."""
    shape = split.views[0].shape
    return model.clone(encoder=FeatureEncoder(shape.grid, shape.prefix))


def make_encode(encoder: nn.Module):
    """A per-device (variables, images [b, H, W, 3]) -> features [b, P, F]."""

    def encode(variables: Variables, images: jax.Array) -> jax.Array:
        def values(images: jax.Array) -> jax.Array:
            return encoder.apply(variables, images, train=False).values

        # A CPU is held up by its memory, and a few images' activations stay in its cache. An
        # accelerator takes all images at once.
        if jax.default_backend() == "cpu":
            at_once = _AT_ONCE if max(images.shape[1:3]) <= _AT_ONCE_SIDE else 1
            return jax.lax.map(lambda image: values(image[None])[0], images, batch_size=at_once)
        return values(images)

    return encode


def source_record(source: Source) -> dict[str, Any]:
    """What results say of the data they were made on."""
    return {"name": source.name, "fingerprint": source.fingerprint, **source.selection}
