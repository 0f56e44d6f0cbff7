"""The embedded default: learns to caption procedural scenes in minutes on two CPU cores."""

from configs import base


def get_config():
    """`base` as it is, with a schedule for minutes on a laptop."""
    config = base.get_config()
    config.encoder = base.conv_encoder()
    config.num_steps = 1500
    config.ema_decay = 0.99
    return config
