"""The Show-Attend-Tell tutorial's system on Flickr8k.

capjax train --config flickr8k_show_attend_tell --config.dataset.root=flickr8k
capjax train --config flickr8k_show_attend_tell:mobilenet_v2 ...
capjax train --config flickr8k_show_attend_tell:self_critical ...

The last starts from the best checkpoint of the first and trains by CIDEr-D
(`docs/self_critical.md`).
"""

from configs import base, coco_show_attend_tell

FIRST_STAGE = "runs/flickr8k_show_attend_tell"


def get_config(variant: str = "resnet"):
    """The config of an encoder, or of a second stage.

    `variant` is "resnet", "mobilenet_v2", whose 7x7 features cost a fraction, or "self_critical"
    after the first.
    """
    if variant not in ("resnet", "mobilenet_v2", "self_critical"):
        raise ValueError(
            f"the encoder is {variant!r}; it must be 'resnet' or 'mobilenet_v2', or the stage "
            "'self_critical'"
        )
    config = coco_show_attend_tell.get_config()
    maximum, packed, bucket = (
        config.dataset[field] for field in ("max_length", "packed", "length_bucket")
    )
    config.dataset = base.flickr8k_dataset()
    config.dataset.max_length, config.dataset.packed = maximum, packed
    config.dataset.length_bucket, config.dataset.image_size = bucket, 256
    if variant == "mobilenet_v2":
        config.encoder = base.mobilenet_v2()
        config.dataset.image_size = 224
    # An epoch is 375 steps.
    config.num_steps, config.eval_every, config.log_every = 7500, 750, 50
    if variant == "self_critical":
        coco_show_attend_tell.self_critical(config, FIRST_STAGE)
        # Three epochs.
        config.num_steps, config.eval_every = 1125, 375
    return config
