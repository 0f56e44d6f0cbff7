"""Captioners of transformers where a command takes a workdir."""

import os

from ml_collections import ConfigDict

from capjax.pretrained.captioners.captioner import PretrainedCaptioner
from capjax.pretrained.checkpoint_folders import is_hub_name, read_json
from capjax.pretrained.errors import WeightsError


def is_published(source: str | os.PathLike) -> bool:
    """Returns whether a source is a captioner of transformers, not a workdir.

    It is if it is a folder whose config.json has a model_type, or if there is no such file or
    folder and it looks like a name on huggingface.co, "organisation/name".
    """
    source = os.path.expanduser(os.fspath(source))
    if not os.path.exists(source):
        return is_hub_name(source)
    try:
        return "model_type" in read_json(os.path.join(source, "config.json"))
    except WeightsError:
        return False


def published_config(captioner: PretrainedCaptioner) -> ConfigDict:
    """Returns the fields of a config that captioning reads; the batch size is a default."""
    config = ConfigDict(
        {"seed": 0, "dtype": "float32", "fused_attention": True, **captioner.sections()}
    )
    config.dataset.num_threads = 4
    config.evaluation = ConfigDict({"batch_size": 16})
    return config
