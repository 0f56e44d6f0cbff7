"""Your own images with captions, over a pretrained MobileNetV2.

    capjax train --config folder_transformer --config.dataset.file=captions.csv \
        --workdir runs/mine

The argument names another encoder, for example `folder_transformer:resnet101` (see
`configs.pretrained_encoders.use_encoder`).

The file has one caption per row: image,caption and optionally split (see
`capjax.data.rows`, also for other files and folders).
"""

from configs import base, flickr8k_transformer


def get_config(encoder: str = "mobilenet_v2"):
    """The Flickr8k config with early stopping, since a folder can have few or many images."""
    config = flickr8k_transformer.get_config()
    config.dataset = base.folder_dataset()
    base.use_encoder(config, encoder)
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
    return config
