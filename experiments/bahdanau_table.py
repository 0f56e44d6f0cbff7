"""Recurrent decoders on Flickr8k beside the transformer, at one small budget: a config a row.

    python -m capjax.main --config experiments/bahdanau_table.py:lstm_soft \
        --config.dataset.root=flickr8k --workdir runs/table/lstm_soft

All rows share the data, the cached features of a frozen MobileNetV2 and crops of its images, the
number of updates (5 1/3 epochs) and their rates. A row takes about ten minutes on two CPU cores.
"""

from configs import base, flickr8k_transformer

_ROWS = {
    "lstm_mean": {"attention": "none"},
    "gru_soft": {"cell": "gru"},
    "gru_soft_penalty": {"cell": "gru"},
    "gru_hard": {"cell": "gru", "attention": "hard"},
    "gru_hard_penalty": {"cell": "gru", "attention": "hard"},
    "lstm_soft": {},
    "lstm_soft_penalty": {},
    "lstm_hard": {"attention": "hard"},
    "lstm_hard_penalty": {"attention": "hard"},
}


def get_config(row: str):
    """The config of a row: "transformer" or a key of `_ROWS`."""
    config = flickr8k_transformer.get_config()
    config.num_steps = 2000
    config.eval_every = 1000
    config.evaluation.num_samples = 2
    config.evaluation.temperatures = (0.0,)
    if row == "transformer":
        return config
    if row not in _ROWS:
        raise ValueError(f"there is no row {row!r}; it may be transformer, {', '.join(_ROWS)}")
    config.dataset.packed = False
    config.dataset.length_bucket = 4
    config.decoder = base.bahdanau_decoder()
    config.decoder.embed_dim = 256
    config.decoder.attention_dim = 256
    config.decoder.embedding_dropout = 0.3
    config.decoder.update(_ROWS[row])
    config.attention_penalty = 1.0 if row.endswith("penalty") else 0.0
    return config
