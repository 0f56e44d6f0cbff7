"""Your own images with captions, over a pretrained MobileNetV2.

    capjax train --config folder_transformer --config.dataset.file=captions.csv \
        --workdir runs/mine
    capjax train --config folder_transformer:try --config.dataset.file=captions.csv

The second is a try of a minute or two. The argument can also name another encoder, for example
`folder_transformer:resnet101` (see `configs.pretrained_encoders.use_encoder`).

The file has one caption per row: image,caption and optionally split (see
`capjax.data.rows`, also for other files and folders).
"""

from configs import base, flickr8k_transformer


def get_config(variant: str = "mobilenet_v2"):
    """The Flickr8k config with early stopping, since a folder can have few or many images.

    `variant` is the encoder, or "try" for a few steps of MobileNetV2.
    """
    config = flickr8k_transformer.get_config()
    config.dataset = base.folder_dataset()
    base.use_encoder(config, "mobilenet_v2" if variant == "try" else variant)
    config.dataset.max_length = 30
    config.dataset.over_length = "cut"
    config.dataset.length_bucket = 16
    # Crops of each image, but no flips, since captions may say left and right.
    config.dataset.crop_area = 0.5
    config.encoder.cache_views = 4
    config.tokenizer.min_count = 2
    config.num_steps = 3000
    config.eval_every = 250
    config.early_stopping.patience = 4
    config.decoding.max_length = 30
    if variant == "try":
        # Whole images alone, which takes a quarter of the time before the first step.
        config.dataset.crop_area, config.encoder.cache_views = 1.0, 1
        config.num_steps = config.eval_every = 60
        config.optimizer.warmup_steps, config.ema_decay = 6, 0.9
    return config
