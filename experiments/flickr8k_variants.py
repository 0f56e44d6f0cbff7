"""Decoders, their sizes and a fine-tuned encoder on Flickr8k, at one small budget.

    python -m experiments.sweep experiments/flickr8k_variants.py --config.dataset.root=flickr8k
    python -m experiments.sweep experiments/flickr8k_variants.py:finalists \
        --config.dataset.root=flickr8k

All have the same data, updates (1.6 epochs) and batches, and all but "fine_tuned" read one cache
of a frozen MobileNetV2's features. On one CPU core a run takes 4 to 16 minutes, after 10 for the
features. The finalists train for 12 epochs, half an hour and more, as a default would.
"""

import functools

from configs import base, flickr8k_transformer
from experiments.flickr8k_recurrent import use_recurrent
from experiments.variants import Sweep, Variant, one_by_one, values


def get_config(num_steps: int = 600):
    """`flickr8k_transformer`, shorter."""
    config = flickr8k_transformer.get_config()
    config.num_steps = num_steps
    config.eval_every = min(num_steps // 2, 750)
    config.optimizer.warmup_steps = min(num_steps // 6, 400)
    config.evaluation.num_samples = 2
    config.evaluation.temperatures = (0.0,)
    return config


def get_sweep(which: str = "all"):
    """Ten variants, or the "finalists" that could be the default; two seeds.

    Raises:
      ValueError: `which` is neither.
    """
    if which not in ("all", "finalists"):
        raise ValueError(f"there is no sweep {which!r}: say :all or :finalists")
    if which == "finalists":
        return Sweep(
            config=functools.partial(get_config, 4500),
            variants=[Variant("transformer"), Variant("gru_soft", use_recurrent(cell="gru"))],
            evaluations={"greedy": {"num_beams": 1}, "beam5": {"num_beams": 5}},
            baseline="transformer",
        )
    transformers = one_by_one(
        Variant("transformer"),
        [Variant("width128", _width(128)), Variant("width512", _width(512))],
        values("decoder.num_layers", (1, 4)),
    )
    others = [
        Variant("gru_soft", use_recurrent(cell="gru")),
        Variant("lstm_soft", use_recurrent(cell="lstm")),
        Variant("lstm_hard", use_recurrent(cell="lstm", attention="hard")),
        Variant("gpt2", _use_gpt2),
        Variant("fine_tuned", _fine_tune),
    ]
    return Sweep(
        config=get_config,
        variants=[*transformers, *others],
        evaluations={"greedy": {"num_beams": 1}, "beam5": {"num_beams": 5}},
        baseline="transformer",
    )


def _width(width: int) -> dict[str, int]:
    return {"decoder.width": width, "adapter.width": width}


def _use_gpt2(config):
    """From scratch, on words of the data, with the baseline's width, layers and dropout."""
    config.decoder = base.gpt2_decoder()
    config.decoder.update(width=256, num_layers=2, num_heads=4, max_length=32)
    config.decoder.update(dropout=0.25, attention_dropout=0.0)


def _fine_tune(config):
    """The encoder's last blocks train from the middle on: before, the decoder knows too little."""
    config.encoder.trainable = ("block_15", "block_16", "Conv_1")
    config.encoder.cache, config.encoder.cache_views = "", 1
    config.optimizer.encoder_learning_rate = 5e-5
    config.optimizer.encoder_start_step = config.num_steps // 2
