"""Encoders and decoders on `shapes`, a few minutes each on two CPU cores.

    python -m experiments.sweep experiments/shapes_variants.py

The baseline is the default's model without contrasts, a small CNN and a transformer, trained by
AdamW. The patch sizes and depths are those of a vision transformer that replaces the CNN. The other
decoders keep the baseline's encoder and have about its decoder's size. GPT-2 trains from scratch
with its own initialisation and tied embeddings.
"""

from configs import base, shapes_transformer
from experiments.variants import Sweep, Variant, one_by_one, values


def get_config():
    """The model of `shapes_transformer`, two epochs with AdamW."""
    config = shapes_transformer.get_config()
    # Beam search as it is: the default's words and forms suit the default's model.
    config.dataset, config.decoding = base.get_config().dataset, base.get_config().decoding
    # As in the table of experiments/README.md.
    config.encoder.update(contrast=False, widths=(32, 64, 128))
    config.num_steps = 1000
    config.eval_every = 250
    config.optimizer = base.get_config().optimizer
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.warmup_steps = 100
    config.ema_decay = 0.99
    config.evaluation.num_samples = 2
    config.evaluation.temperatures = (0.0,)
    return config


def get_sweep():
    """Nine variants, two seeds."""
    patches = Variant("patch", {"encoder": base.patch_encoder()})
    encoders = one_by_one(
        patches,
        values("encoder.patch_size", (4, 16)),
        values("encoder.depth", (2,)),
    )
    decoders = [
        Variant("transformer4", {"decoder.num_layers": 4}),
        Variant("gru", _recurrent("gru")),
        Variant("lstm", _recurrent("lstm")),
        Variant("gpt2", _use_gpt2),
    ]
    return Sweep(
        config=get_config,
        variants=[Variant("default"), *encoders, *decoders],
        evaluations={"greedy": {"num_beams": 1}, "beam5": {"num_beams": 5}},
        baseline="default",
    )


def _recurrent(cell: str):
    """A recurrent decoder with additive soft attention, as wide as the transformer."""

    def change(config):
        config.dataset.packed = False
        config.decoder = base.bahdanau_decoder()
        config.decoder.update(cell=cell, width=256, embed_dim=128, attention_dim=128, dropout=0.0)

    return change


def _use_gpt2(config):
    config.decoder = base.gpt2_decoder()
    config.decoder.update(width=128, num_layers=2, num_heads=4, max_length=32)
    config.decoder.update(dropout=0.0, attention_dropout=0.0)
