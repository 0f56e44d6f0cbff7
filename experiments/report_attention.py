"""Recomputes the attention of an evaluation's captions."""

import itertools
from collections.abc import Iterator

from ml_collections import ConfigDict

from capjax.config import build, questions
from capjax.config.identity import dataset_fields
from capjax.config.upgrade import upgrade_decoding
from capjax.data.captions import CaptionTable
from capjax.data.sections import check_images, open_captions, open_source
from capjax.data.source import Source
from capjax.evaluate.captioning import Caption, CaptionBatches
from capjax.parallel import devices
from capjax.run.features import from_features
from capjax.run.load import load
from capjax.run.split import make_split
from capjax.run.workdir import Workdir
from experiments.sweep_files import Evaluation, Run


def config_of(run: Run, evaluation: Evaluation) -> ConfigDict:
    """The run's config with the dataset paths of its evaluation, which may differ."""
    config = Workdir(run.workdir).load_config()
    used = evaluation.record["config"]["dataset"]
    places = dataset_fields(config.dataset)
    config.dataset.update({name: used[name] for name in places if name in used})
    return config


def open_data(config: ConfigDict) -> tuple[Source, CaptionTable]:
    """Opens the images that a run's evaluation captioned, and their references.

    Raises:
      DataError: the dataset is missing or cannot be used.
    """
    source = check_images(config.dataset, open_source(config.dataset, "validation"))
    return source, open_captions(config.dataset, source)


def captions_with_attention(
    config: ConfigDict,
    directory: str,
    evaluation: Evaluation,
    data: tuple[Source, CaptionTable],
    count: int,
) -> Iterator[Caption]:
    """Captions the first `count` images in order as `--mode evaluate` does, with attention.

    Args:
      config: the run's config.
      directory: the run's workdir.
      evaluation: gives the checkpoint and the decoding.
      data: see `open_data`.
      count: number of images, at most the size of the split.

    Raises:
      WorkdirError: the checkpoint is missing or damaged.
    """
    run = load(directory, evaluation.record["step"])
    split = make_split(config, *data, run.tokenizer)
    model, variables = run.model, run.variables
    if questions.is_cached(config):
        # Cached features are float16, as in the evaluation, so that the captions are the same.
        split, model, variables = from_features(split, model, variables)
    decoding = ConfigDict(upgrade_decoding(evaluation.record["decoding"]))
    method = run.with_table(build.decoding_method(decoding))
    caption = CaptionBatches(model, run.tokenizer, attention=True)
    captioned = caption(devices.replicate(variables), split.eval_batches(), method)
    return (found for _, found in itertools.islice(captioned, count))
