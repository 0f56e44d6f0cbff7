"""The headline: a transformer captioner on COCO captions, Karpathy's splits."""

from configs import base


def get_config():
    """A 12-layer ViT from scratch and a 6-layer decoder: for a GPU or a TPU, 30 epochs."""
    config = base.get_config()
    config.dataset = base.tfds_dataset("coco_captions")
    config.dataset.image_size = 224
    config.dataset.max_length = 22
    config.dataset.over_length = "cut"
    config.dataset.num_threads = 16
    # The usual COCO vocabulary: words seen five times or more (Karpathy and Fei-Fei 2015).
    config.tokenizer.min_count = 5

    config.encoder.patch_size = 16
    config.encoder.width = 384
    config.encoder.depth = 12
    config.encoder.num_heads = 6
    config.encoder.dropout = 0.1
    config.decoder.width = 512
    config.decoder.num_layers = 6
    config.decoder.num_heads = 8
    config.dtype = "bfloat16"

    config.batch_size = 256
    # 113,287 images: 442.5 steps an epoch.
    config.num_steps = 13_275
    config.ema_decay = 0.9999
    config.label_smoothing = 0.1
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 1000
    config.optimizer.weight_decay = 0.05
    config.eval_every = 1328
    config.checkpoint_every = 443
    config.early_stopping.patience = 3
    config.evaluation.batch_size = 128
    # 20 words, start and end.
    config.decoding.max_length = 22
    return config
