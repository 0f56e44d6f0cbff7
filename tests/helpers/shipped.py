"""The functions that make shipped configs, by what --config takes."""

import functools
import importlib

from capjax.config.shipped import summaries

# Their get_config() reads checkpoints of huggingface.co.
READ_CHECKPOINTS = tuple(
    f"{data}_{model}" for data in ("coco", "folder") for model in ("blip", "git", "vit_gpt2")
)
_ARGUMENTS = {
    "coco_bahdanau_gru": ("self_critical",),
    "coco_show_attend_tell": ("fine_tune", "self_critical"),
    "coco_transformer": ("karpathy", "coco_json", "karpathy,self_critical", "self_critical"),
    "flickr8k_bahdanau_gru": ("self_critical",),
    "flickr8k_show_attend_tell": ("self_critical",),
    "flickr8k_transformer": (
        *("mobilenet_v3_small", "efficientnet_b0", "fine_tune", "self_critical"),
    ),
    "shapes_transformer": ("self_critical",),
}

CONFIGS = {
    name: importlib.import_module(f"configs.{name}").get_config
    for name in summaries()
    if name not in READ_CHECKPOINTS
}
WITH_ARGUMENTS = {
    f"{name}:{argument}": functools.partial(CONFIGS[name], argument)
    for name, arguments in _ARGUMENTS.items()
    for argument in arguments
}
