"""Flickr8k with a pretrained MobileNetV2: the TensorFlow captioning tutorial's system, better.

python -m capjax.main --config configs/flickr8k_transformer.py --config.dataset.root=flickr8k
"""

from configs import base


def get_config():
    """Features of a frozen MobileNetV2, an adapter and a two-layer decoder."""
    config = base.get_config()
    config.dataset = base.flickr8k_dataset()
    config.dataset.image_size = 224
    config.dataset.max_length = 22
    config.dataset.over_length = "cut"
    config.dataset.length_bucket = 16
    config.tokenizer.min_count = 5
    config.encoder = base.mobilenet_v2()
    config.adapter = base.adapter()
    config.decoder.width = 256
    config.decoder.dropout = 0.4
    config.decoder.attention_dropout = 0.1
    config.decoder.tie_embeddings = True
    # 6,000 images: 93.75 steps an epoch.
    config.num_steps = 1500
    config.ema_decay = 0.999
    config.label_smoothing = 0.1
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.weight_decay = 0.05
    config.eval_every = 250
    config.decoding.max_length = 22
    return config
