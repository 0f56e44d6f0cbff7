"""Recurrent decoders with several kinds of attention on Flickr8k, and the transformer.

    python -m experiments.sweep experiments/flickr8k_recurrent.py --config.dataset.root=flickr8k

All variants share the data, the cached features of images and crops by a frozen MobileNetV2, the
number of updates (5 1/3 epochs) and the learning rate. A run takes about ten minutes on two CPU
cores.
"""

from configs import base, flickr8k_transformer
from experiments.variants import Sweep, Variant


def get_full_config():
    """`flickr8k_transformer` with fewer evaluation samples."""
    config = flickr8k_transformer.get_config()
    config.evaluation.num_samples = 2
    config.evaluation.temperatures = (0.0,)
    return config


def get_config():
    """`get_full_config` with fewer updates."""
    config = get_full_config()
    config.num_steps = 2000
    config.eval_every = 1000
    return config


def get_sweep():
    """Soft, hard and no attention, the doubly stochastic penalty, GRU and LSTM; one seed."""
    variants = [Variant("transformer"), Variant("lstm_mean", use_recurrent(attention="none"))]
    for cell in ("gru", "lstm"):
        for attention in ("soft", "hard"):
            fields = {"cell": cell, "attention": attention}
            name = f"{cell}_{attention}"
            variants.append(Variant(name, use_recurrent(**fields)))
            variants.append(Variant(f"{name}_penalty", use_recurrent(penalty=1.0, **fields)))
    return Sweep(
        config=get_config,
        variants=variants,
        evaluations={"beam5": {"num_beams": 5}},
        baseline="transformer",
        seeds=(0,),
    )


def use_recurrent(penalty: float = 0.0, **fields):
    """Returns an override: `base.bahdanau_decoder` with `fields` as the decoder."""

    def change(config):
        # A recurrent decoder takes one caption per row, for as long as the batch's longest caption.
        config.dataset.packed = False
        config.dataset.length_bucket = 4
        config.decoder = base.bahdanau_decoder()
        config.decoder.update(embed_dim=256, attention_dim=256, embedding_dropout=0.3, **fields)
        config.attention_penalty = penalty

    return change
