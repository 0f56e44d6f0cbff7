"""Recurrent decoders on Flickr8k beside the transformer, at one small budget: a config a row.

    python -m capjax.main --config experiments/bahdanau_table.py:lstm_soft \
        --config.dataset.root=flickr8k --workdir runs/table/lstm_soft

All rows share the data, the cached features of a frozen MobileNetV2 and the number of updates.
"""

from configs import base, flickr8k_transformer


def _rows():
    soft = {"gate": "vector", "output": "deep"}
    return {
        "lstm_mean": {"attention": "none"},
        "gru_soft": {"cell": "gru", **soft},
        "lstm_soft": soft,
        "lstm_soft_penalty": soft,
        "gru_hard": {"cell": "gru", "attention": "hard", **soft},
        "lstm_hard": {"attention": "hard", **soft},
        "lstm_hard_penalty": {"attention": "hard", **soft},
        "gru_soft_penalty": {"cell": "gru", **soft},
    }


def get_config(row: str):
    """The config of a row: "transformer" or a key of `_rows`."""
    config = flickr8k_transformer.get_config()
    config.num_steps = 3750
    config.eval_every = 1250
    if row == "transformer":
        return config
    config.decoder = base.bahdanau_decoder()
    config.decoder.update(_rows()[row])
    config.adapter.width = 512
    config.decoder.embedding_dropout = 0.3
    config.attention_penalty = 1.0 if row.endswith("penalty") else 0.0
    return config
