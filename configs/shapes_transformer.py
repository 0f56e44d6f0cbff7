"""The default: learns to caption procedural scenes in minutes on two CPU cores.

    capjax train --config shapes_transformer
    capjax train --config shapes_transformer:self_critical

The second starts from the best checkpoint of the first and trains by CIDEr-D
(`docs/self_critical.md`).
"""

from capjax.data.shapes.grammar import PATTERN_NOUNS, PLURALS
from configs import base

FIRST_STAGE = "runs/shapes_transformer"

# What ends the mention of a thing.
_ENDS = (*PLURALS, *(noun for nouns in PATTERN_NOUNS.values() for noun in nouns))


def get_config(stage: str = ""):
    """A small CNN and a two-layer transformer, both from scratch: 2.8 epochs of `shapes`.

    `stage` is "self_critical" for the second stage.
    """
    if stage not in ("", "self_critical"):
        raise ValueError(f"the stage is {stage!r}; it must be 'self_critical', or be left out")
    config = base.get_config()
    config.encoder = base.conv_encoder()
    # A stride of 2 and not 4, with which the model learned to tell shapes apart late.
    config.encoder.stem_stride = 2
    # After 400 steps of 700 the loss was 0.64 with it, and 0.79 without.
    config.encoder.contrast = True
    # With 32 channels of the first stage a step takes 1.6 times as long, for captions as true.
    config.encoder.widths = (16, 64, 128)
    config.encoder.blocks = 1
    config.decoder.dropout = 0.0
    # Small batches learn more per unit of compute: after equal time 16 images per step had a loss
    # of 0.80, and 64 a loss of 1.13.
    config.batch_size = 16
    config.num_steps = 1400
    # Short, because the rate falls to 0: a decay of 0.998 would still hold steps of a high rate.
    config.ema_decay = 0.99
    # After 400 steps the loss was 0.69, and 0.97 with AdamW at its best rate.
    config.optimizer.kind = "muon"
    config.optimizer.matrix_learning_rate = 0.01
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 50
    # It keeps a high rate for longer than a cosine, after which 0.96 of the captions were true, and
    # 0.98 to 0.99 after this.
    config.optimizer.schedule = "linear"
    # One shape for all batches, because each is compiled, which takes as long as a hundred steps:
    # the five captions of an image have 45 to 78 tokens.
    config.dataset.length_bucket = 39
    config.log_every = 50
    config.eval_every = 1400
    config.evaluation.num_samples = 1
    config.early_stopping.metric = "truth_rate"
    # Beam search finds the likeliest form of a caption, and says nothing else. Without the forms
    # that leave out most (lists of three, "two circles and ..."), without the likeliest word for a
    # size and with a taste for short captions the forms share the captions out among them, and
    # every kind of fact is stated about as often as in references (experiments/README.md).
    config.decoding.length_penalty = -2.0
    config.decoding.suppress = ("large", *PLURALS.values())
    config.decoding.bad_words = tuple(f"{noun} a" for noun in _ENDS)
    if stage:
        base.use_self_critical(config, FIRST_STAGE)
        config.num_steps, config.eval_every = 300, 100
        config.ema_decay = 0.98
        config.optimizer.kind = "adamw"
        config.optimizer.learning_rate = 1e-4
        config.optimizer.warmup_steps = 20
    return config
