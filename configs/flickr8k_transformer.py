"""Flickr8k with a pretrained MobileNetV2: the TensorFlow captioning tutorial's system, improved.

    capjax train --config flickr8k_transformer --config.dataset.root=flickr8k
    capjax train --config flickr8k_transformer:fine_tune --config.dataset.root=flickr8k
    capjax train --config flickr8k_transformer:self_critical --config.dataset.root=flickr8k

The other stages start from the best checkpoint of the first. One also trains the encoder's last
blocks, the other trains by CIDEr-D (`docs/self_critical.md`). The argument can also name another
encoder (`configs.pretrained_encoders.use_encoder`): `:resnet101`, or a ViT,
`:openai/clip-vit-base-patch32`.
"""

from configs import base

FIRST_STAGE = "runs/flickr8k_transformer"


def get_config(variant: str = "mobilenet_v2"):
    """Features of an encoder, an adapter and a two-layer decoder.

    `variant` is the encoder, or "fine_tune" or "self_critical" for a second stage of MobileNetV2.
    """
    config = base.get_config()
    config.dataset = base.flickr8k_dataset()
    config.dataset.max_length = 22
    config.dataset.over_length = "cut"
    config.dataset.length_bucket = 16
    # Features of the whole image and of five crops, against overfitting on 6,000 images: without
    # crops the validation loss rose after 10 epochs.
    config.dataset.crop_area = 0.5
    # Only 149 of the 35,000 captions of train and validation say left or right.
    config.dataset.flip = True
    config.tokenizer.min_count = 5

    stages = {"fine_tune": _fine_tune, "self_critical": _self_critical}
    base.use_encoder(config, "mobilenet_v2" if variant in stages else variant)
    config.encoder.cache_views = 6
    config.adapter = base.adapter()
    config.adapter.dropout = 0.2
    config.decoder.width = 256
    config.decoder.dropout = 0.25
    config.decoder.tie_embeddings = True

    config.batch_size = 16
    # 12 epochs of 375 steps; 20 epochs gave no better scores by beam search.
    config.num_steps = 4500
    config.ema_decay = 0.999
    config.label_smoothing = 0.1
    config.optimizer.learning_rate = 8e-4
    config.optimizer.warmup_steps = 400
    config.optimizer.weight_decay = 0.05
    config.log_every = 50
    config.eval_every = 750
    config.decoding.max_length = 22
    # Chosen on validation, among penalties from 0.6 to 1 and the three stopping rules.
    config.decoding.length_penalty = 0.7
    config.decoding.early_stopping = "true"
    if variant in stages:
        stages[variant](config)
    return config


def _fine_tune(config) -> None:
    """Three epochs of the last blocks, at a fraction of the rates, with new crops in each step."""
    config.init_from = FIRST_STAGE
    config.encoder.trainable = ("block_14", "block_15", "block_16", "Conv_1")
    config.encoder.cache, config.encoder.cache_views = "", 1
    config.num_steps, config.eval_every = 1125, 375
    config.optimizer.learning_rate = 1e-4
    config.optimizer.encoder_learning_rate = 5e-5
    config.optimizer.warmup_steps = 100


def _self_critical(config) -> None:
    """Three epochs of CIDEr-D at a low rate, with the dropout of the first stage."""
    base.use_self_critical(config, FIRST_STAGE)
    # After label smoothing, samples at temperature 1 are far worse than greedy captions.
    config.objective.temperature = 0.7
    config.objective.dropout = True
    config.num_steps, config.eval_every = 1125, 375
    config.ema_decay = 0.99
    # Captions are a word shorter than those of the first stage, for which 0.7 was chosen.
    config.decoding.length_penalty = 1.0
    config.optimizer.learning_rate = 2e-5
    config.optimizer.warmup_steps = 50
