"""A small ViT and a small GPT-2 from scratch on `shapes`: minutes on two CPU cores.

The same parts and training as in `coco_vit_gpt2`; the run can be exported to transformers.
"""

from configs import base


def get_config():
    """Patches of 8 pixels, three blocks on each side."""
    config = base.get_config()
    config.encoder.class_token = True
    config.encoder.depth = 3
    config.decoder = base.gpt2_decoder()
    config.decoder.max_length = 32
    config.decoder.width = 128
    config.decoder.num_layers = 3
    config.decoder.num_heads = 4
    config.decoder.dropout = 0.0
    config.decoder.attention_dropout = 0.0
    config.batch_size = 16
    config.num_steps = 3000
    config.label_smoothing = 0.05
    config.optimizer.schedule = "linear"
    config.eval_every = 1000
    config.early_stopping.metric = "truth_rate"
    config.decoding.num_beams = 4
    return config
