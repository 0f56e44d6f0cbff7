"""The one place that knows where the code of training and evaluating in this process lies.

Everything else in this folder uses only what is documented: commands, `capjax`, `configs.base`.
"""

try:
    from capjax.run.evaluate import evaluate
    from capjax.run.train import train
except ImportError:  # In commit c32e60f, with whose code make_runs.py records.
    from capjax.run import evaluate, train

__all__ = ["evaluate", "train"]
