"""The GRU captioner on 30,000 captions of COCO, as in RStudio's article.

    capjax train --config coco_bahdanau_gru \
        --config.dataset.train_file=annotations/captions_train2014.json \
        --config.dataset.train_root=train2014
    capjax train --config coco_bahdanau_gru:mobilenet_v2 ...
    capjax train --config coco_bahdanau_gru:self_critical ...

"Attention-based Image Captioning with Keras" (Keydana 2018) draws 30,000 random captions of COCO's
train split and keeps 80% for training. An image can then be in both parts, which makes its scores
too high; `--config.dataset.sample_by=images` draws images and avoids this. The last command starts
from the best checkpoint of the first and trains by CIDEr-D (`docs/self_critical.md`).
"""

from configs import base, flickr8k_bahdanau_gru

FIRST_STAGE = "runs/coco_bahdanau_gru"


def get_config(variant: str = "inception_v3"):
    """`variant` is "inception_v3", "mobilenet_v2", or "self_critical" after the first."""
    encoder = "inception_v3" if variant == "self_critical" else variant
    config = base.get_config()
    config.dataset = base.coco_json_dataset()
    config.dataset.sample = 30_000
    config = flickr8k_bahdanau_gru.with_gru(config, encoder)
    # The 24,000 captions are of about 20,900 images, mostly one per image.
    config.dataset.captions_per_image = 2
    config.batch_size = 64
    # 20 epochs of about 330 steps.
    config.num_steps = 6600
    config.eval_every = 660
    if variant == "self_critical":
        flickr8k_bahdanau_gru.self_critical(config, FIRST_STAGE)
        config.num_steps, config.eval_every = 1650, 330
    return config
