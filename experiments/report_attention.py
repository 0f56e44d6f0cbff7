"""Where the captions of an evaluation looked, computed again and stored compactly."""

import base64
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from capjax.config import build, questions
from capjax.config.identity import FREE
from capjax.data.captions import CaptionTable
from capjax.data.sections import check_images, open_captions, open_source
from capjax.data.source import Source
from capjax.evaluate.attention_maps import grid_maps
from capjax.evaluate.captioning import Caption, CaptionBatches
from capjax.parallel import devices
from capjax.run.features import from_features
from capjax.run.load import load
from capjax.run.split import make_split
from capjax.run.workdir import Workdir
from experiments.sweep_files import Evaluation, Run


def config_of(run: Run, evaluation: Evaluation) -> ConfigDict:
    """The run's config, with the dataset's paths of its evaluation, which may differ."""
    config = Workdir(run.workdir).load_config()
    used = evaluation.record["config"]["dataset"]
    free = [name.removeprefix("dataset.") for name in FREE if name.startswith("dataset.")]
    config.dataset.update({name: used[name] for name in free if name in used})
    return config


def open_data(config: ConfigDict) -> tuple[Source, CaptionTable]:
    """The images that a run's evaluation captioned, and their captions.

    Raises:
      DataError: they are not there or can't be used.
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
    """The first `count` images captioned as by `--mode evaluate`, with attention, in order.

    Args:
      config: of the run.
      directory: its workdir.
      evaluation: says checkpoint and decoding.
      data: see `open_data`.
      count: images, at most those of the split.

    Raises:
      WorkdirError: the checkpoint is not there, or damaged.
    """
    run = load(directory, evaluation.record["step"])
    split = make_split(config, *data, run.tokenizer)
    model, variables = run.model, run.variables
    if questions.is_cached(config):
        # The same numbers as in the evaluation, whose features are float16.
        split, model, variables = from_features(split, model, variables)
    decoding = {k: v for k, v in evaluation.record["decoding"].items() if k != "method"}
    method = build.beam_search(ConfigDict(decoding))
    caption = CaptionBatches(model, run.tokenizer, attention=True)
    captioned = caption(devices.replicate(variables), split.eval_batches(), method)
    return (found for _, found in itertools.islice(captioned, count))


def encode_maps(caption: Caption) -> list[Any]:
    """A caption's attention for JSON: [h, w, base64 of uint8 words x h x w].

    It is averaged over layers and heads, positions outside the grid are left out, and each word's
    map is scaled by its own maximum to 255.
    """
    maps = grid_maps(caption).mean(axis=(1, 2))
    most = maps.max(axis=(1, 2), keepdims=True, initial=np.finfo(np.float32).tiny)
    scaled = np.rint(255 * maps / most).astype(np.uint8)
    return [*caption.grid, base64.b64encode(scaled.tobytes()).decode()]


def pieces(text: str, words: Sequence[str]) -> list[str]:
    """A caption's text cut where its tokens begin, as many pieces as tokens.

    A piece has the spaces before it: of a tokenizer of words all but the first have one, of others
    only those that begin a word. A token that is not in the text, such as a part of a character,
    has an empty piece. Joined they are the text, unless there are none.
    """
    found, place = [], 0
    for word in words:
        token, spaces = word.strip(), len(text[place:]) - len(text[place:].lstrip())
        if token and text.startswith(token, place + spaces):
            found.append(text[place : place + spaces + len(token)])
            place += len(found[-1])
        else:
            found.append("")
    return [*found[:-1], found[-1] + text[place:]] if found else []
