"""Decoders of several sizes and a fine-tuned encoder on Flickr8k, at one small budget.

    python -m experiments.sweep experiments/flickr8k_variants.py --config.dataset.root=flickr8k
    python -m experiments.sweep experiments/flickr8k_variants.py:finalists \
        --config.dataset.root=flickr8k

All variants have the same data, updates (1.6 epochs) and batches. All except "fine_tuned" read one
cache of a frozen MobileNetV2's features. On one CPU core the features take 10 minutes, and a run 4
to 16. The finalists train for the default's 12 epochs: half an hour and more.
"""

from configs import base
from experiments.flickr8k_recurrent import get_full_config, use_recurrent
from experiments.variants import Sweep, Variant, one_by_one, values


def get_config():
    """`flickr8k_transformer` with fewer updates."""
    config = get_full_config()
    config.num_steps = 600
    config.eval_every = 300
    config.optimizer.warmup_steps = 100
    return config


def get_sweep(which: str = "all"):
    """Ten variants, or the "finalists" for the default; two seeds.

    Raises:
      ValueError: `which` is unknown.
    """
    sweeps = {"all": (get_config, _variants), "finalists": (get_full_config, _finalists)}
    if which not in sweeps:
        raise ValueError(f"there is no sweep {which!r}; the sweeps are :all and :finalists")
    config, variants = sweeps[which]
    return Sweep(
        config=config,
        variants=variants(),
        evaluations={"greedy": {"num_beams": 1}, "beam5": {"num_beams": 5}},
        baseline="transformer",
    )


def _finalists():
    return [Variant("transformer"), Variant("gru_soft", use_recurrent(cell="gru"))]


def _variants():
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
    return [*transformers, *others]


def _width(width: int) -> dict[str, int]:
    return {"decoder.width": width, "adapter.width": width}


def _use_gpt2(config):
    """GPT-2 from scratch over the dataset's vocabulary, with the baseline's width and dropout."""
    config.decoder = base.gpt2_decoder()
    config.decoder.update(width=256, num_layers=2, num_heads=4, max_length=32)
    config.decoder.update(dropout=0.25, attention_dropout=0.0)


def _fine_tune(config):
    """Trains the encoder's last blocks in the second half, after the decoder has learned."""
    config.encoder.trainable = ("block_15", "block_16", "Conv_1")
    config.encoder.cache, config.encoder.cache_views = "", 1
    config.optimizer.encoder_learning_rate = 5e-5
    config.optimizer.encoder_start_step = config.num_steps // 2
