"""Cached features of a frozen encoder, which replace a split's pixels and the encoder."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from capjax.config import build, questions
from capjax.data.augment import Augmentation, draw_view
from capjax.data.feature_cache import FeatureCache, FeatureShape, open_features
from capjax.data.reading import ViewOf, read_batches
from capjax.data.resize import Resize
from capjax.data.sections import cache_dir
from capjax.models.captioner import (
    Captioner,
    FeatureEncoder,
    Variables,
    encoder_variables,
    without_encoder,
)
from capjax.parallel import devices, platform, processes
from capjax.pretrained.variables import fingerprint
from capjax.run.split import Split

# Must be raised when the features of an unchanged key change.
_FORMAT = "capjax features 2"

# Images that a CPU encodes at once, and the largest side for which this was measured to be fastest.
_AT_ONCE, _AT_ONCE_SIDE = 4, 256


def from_features(
    split: Split, model: Captioner, variables: Variables
) -> tuple[Split, Captioner, Variables]:
    """Returns a split with cached features, the model without its encoder, and its variables.

    Raises:
      DataError, ImageError: as `with_features`.
    """
    split = with_features(split, model.encoder, encoder_variables(variables))
    return split, feature_model(model, split), without_encoder(variables)


def with_features(
    split: Split, encoder: nn.Module, variables: Variables, *, views: int = 1
) -> Split:
    """Returns the split with cached features of a frozen encoder; computes missing ones.

    Every process needs all features, since a shuffle may give it any image. One process computes
    them while the others wait: the first one on a shared disk, and one per host on separate disks.

    Args:
      split: its images are read where features are missing.
      encoder: images -> Memory.
      variables: the encoder's.
      views: features per image: 1 of the whole image, the others of random crops and flips by the
        config's dataset section.

    Raises:
      DataError: the disk has no room for the features, or the cached ones can't be used.
      ImageError: an image can't be used.
    """
    weights = fingerprint(variables)
    with processes.primary_first():
        opened = [_open_view(split, encoder, variables, weights, view) for view in range(views)]
    return dataclasses.replace(split, views=tuple(opened))


def feature_model(model: Captioner, split: Split) -> Captioner:
    """Replaces the model's encoder by a split's cached features."""
    shape = split.views[0].shape
    return model.clone(encoder=FeatureEncoder(shape.grid, shape.prefix))


def _open_view(
    split: Split, encoder: nn.Module, variables: Variables, weights: str, view: int
) -> FeatureCache:
    """Opens the features of a view: whole images for 0, else one random crop of each image."""
    config = split.config
    key, shape = _key(split, weights, view), _shape(split, encoder, variables)

    def compute(batches: np.ndarray) -> Iterator[np.ndarray]:
        encode, placed = devices.map_local(make_encode(encoder)), devices.replicate(variables)
        for pixels in read_batches(
            split.source,
            batches,
            resize=build.resize(config.dataset),
            num_threads=config.dataset.num_threads,
            view_of=_view_of(split, view) if view else None,
        ):
            yield devices.unshard(encode(placed, devices.shard(pixels)))

    digest = hashlib.sha256(
        json.dumps({**key, "dtype": shape.dtype}, sort_keys=True).encode()
    ).hexdigest()
    return open_features(
        os.path.join(cache_dir(config.dataset), f"features-{digest[:32]}"),
        key,
        shape,
        compute,
        # As many images as this process's devices take in an evaluation.
        batch_size=config.evaluation.batch_size // processes.count(),
        name=f"{split.source.name}, view {view}" if view else split.source.name,
    )


def _key(split: Split, weights: str, view: int) -> dict[str, Any]:
    """The cache key: everything the features depend on; `weights` is a fingerprint."""
    config, dataset = split.config, split.config.dataset
    return {
        "format": _FORMAT,
        "source": split.source.fingerprint,
        # Not the scaling of pixels: the encoder does it.
        **_resize_key(build.resize(dataset)),
        # Some fields, for example a ViT's activation, change no weight.
        "encoder": questions.encoder_fields(config),
        "compute": config.dtype,
        "weights": weights,
        "view": [view, dataset.crop_area, dataset.flip] if view else None,
    }


def _resize_key(resize: Resize) -> dict[str, Any]:
    """The fields of a resize; of one with default settings only its side."""
    fields = dataclasses.asdict(resize)
    return {
        "image_size": fields.pop("size"),
        **({"resize": fields} if resize != Resize(resize.size) else {}),
    }


def _shape(split: Split, encoder: nn.Module, variables: Variables) -> FeatureShape:
    config = split.config
    memory = jax.eval_shape(
        lambda x: encoder.apply(variables, x, train=False),
        jax.ShapeDtypeStruct((1, *build.resize(config.dataset).shape), jnp.uint8),
    )
    return FeatureShape(
        len(split.source),
        *memory.values.shape[1:],
        grid=memory.grid,
        prefix=memory.prefix,
        dtype=config.encoder.cache,
    )


def _view_of(split: Split, view: int) -> Callable[[int], ViewOf]:
    """Image index -> the view's random crop of that image."""
    dataset = split.config.dataset

    def view_of(index: int) -> ViewOf:
        augmentation = Augmentation(dataset.crop_area, dataset.flip)
        return lambda size: draw_view(augmentation, view, index, size)

    return view_of


def make_encode(encoder: nn.Module):
    """Returns a per-device (variables, images [b, H, W, 3]) -> features [b, P, F]."""

    def encode(variables: Variables, images: jax.Array) -> jax.Array:
        def values(images: jax.Array) -> jax.Array:
            return encoder.apply(variables, images, train=False).values

        # A CPU is limited by memory bandwidth, and the activations of a few images stay in its
        # cache. An accelerator takes all images at once.
        if platform.on_cpu():
            at_once = _AT_ONCE if max(images.shape[1:3]) <= _AT_ONCE_SIDE else 1
            return jax.lax.map(lambda image: values(image[None])[0], images, batch_size=at_once)
        return values(images)

    return encode
