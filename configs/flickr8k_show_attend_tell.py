"""The Show-Attend-Tell tutorial's system on Flickr8k.

capjax train --config flickr8k_show_attend_tell --config.dataset.root=flickr8k
capjax train --config flickr8k_show_attend_tell:mobilenet_v2 ...
"""

from configs import base, coco_show_attend_tell


def get_config(encoder: str = "resnet"):
    """`encoder` is "resnet" or "mobilenet_v2", whose 7x7 features cost a fraction."""
    if encoder not in ("resnet", "mobilenet_v2"):
        raise ValueError(f"the encoder is {encoder!r}; it must be 'resnet' or 'mobilenet_v2'")
    config = coco_show_attend_tell.get_config()
    maximum, packed, bucket = (
        config.dataset[field] for field in ("max_length", "packed", "length_bucket")
    )
    config.dataset = base.flickr8k_dataset()
    config.dataset.max_length, config.dataset.packed = maximum, packed
    config.dataset.length_bucket, config.dataset.image_size = bucket, 256
    if encoder == "mobilenet_v2":
        config.encoder = base.mobilenet_v2()
        config.dataset.image_size = 224
    # An epoch is 375 steps.
    config.num_steps, config.eval_every, config.log_every = 7500, 750, 50
    return config
