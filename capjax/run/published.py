"""Loads a captioner of transformers, with adapters of PEFT or without."""

import os

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from capjax.config import build
from capjax.config.upgrade import upgrade_decoding
from capjax.data.tokenizer import Tokenizer
from capjax.models.captioner import Captioner, Variables, join_frozen
from capjax.models.lora import merge
from capjax.pretrained.captioners.captioner import PretrainedCaptioner
from capjax.pretrained.captioners.peft_adapters import read_adapters
from capjax.pretrained.captioners.published import published_config
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.weights import check_finite
from capjax.run.workdir import WorkdirError


def load_published(
    source: str, adapter: str | os.PathLike = ""
) -> tuple[ConfigDict, Tokenizer, Captioner, Variables]:
    """Loads the config, the tokenizer, the model and the variables; see `capjax.load`."""
    found = read_published(source, weights=True)
    config, variables = published_config(found), found.variables
    if adapter:
        adapters, scale = read_adapters(adapter, found)
        with np.errstate(over="ignore", invalid="ignore"):
            variables = merge(join_frozen(adapters, variables), scale)
        # Products of finite numbers need not be.
        check_finite(traverse_util.flatten_dict(variables["params"], sep="/"), os.fspath(adapter))
    config.decoding = ConfigDict(upgrade_decoding(config.decoding))
    return config, found.tokenizer, build.captioner(config, found.tokenizer), variables


def read_published(source: str, *, weights: bool) -> PretrainedCaptioner:
    """Reads a captioner of transformers.

    Raises:
      WeightsError: it can't be used.
      WorkdirError: nothing of that name is here or on huggingface.co.
    """
    try:
        return read_captioner(source, weights=weights)
    except WeightsError as error:
        if os.path.exists(os.path.expanduser(source)):
            raise
        # Most likely a workdir that does not exist.
        message = f"{source}: there is no such folder. As a name on huggingface.co: {error}"
        raise WorkdirError(message) from error
