"""Registries of parts by name, and types of their fields. Imports neither JAX nor Flax."""

from capjax.parts.registry import Registry

DECODERS = Registry("decoder", "capjax.models.decoders")
ENCODERS = Registry("encoder", "capjax.models.encoders")
DATASETS = Registry(
    "dataset",
    "capjax.data.datasets",
    hint=". TensorFlow Datasets has others: config.dataset = base.tfds_dataset(NAME)",
)
OBJECTIVES = Registry("objective", "capjax.train.objectives")
METRICS = Registry("metric")
REWARDS = Registry("reward", "capjax.metrics.rewards")

__all__ = ["DATASETS", "DECODERS", "ENCODERS", "METRICS", "OBJECTIVES", "REWARDS", "Registry"]
