"""Your own pictures with captions, over a pretrained MobileNetV2.

    python -m capjax.main --config configs/folder_transformer.py \
        --config.dataset.file=captions.csv --workdir runs/mine

or over another encoder by its name, such as `folder_transformer.py:resnet101` (see
`configs.pretrained_encoders.use_encoder`).

The file has a row a caption: image,caption and, if you like, split (see
`capjax.data.datasets.folder`).
"""

from configs import base, flickr8k_transformer


def get_config(encoder: str = "mobilenet_v2"):
    """As for Flickr8k, and it stops early: a folder may have many pictures or few."""
    config = flickr8k_transformer.get_config()
    config.dataset = base.folder_dataset()
    base.use_encoder(config, encoder)
    config.dataset.max_length = 30
    config.dataset.over_length = "cut"
    config.dataset.length_bucket = 16
    # Crops of each picture, and no flips: captions may say left and right.
    config.dataset.crop_area = 0.5
    config.encoder.cache_views = 4
    config.tokenizer.min_count = 2
    config.num_steps = 3000
    config.eval_every = 250
    config.early_stopping.patience = 4
    config.decoding.max_length = 30
    return config
