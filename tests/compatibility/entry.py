"""The one place that knows where the code of training and evaluating in this process lies.

Everything else in this folder uses only what is documented: commands, `capjax`, `configs.base`.
"""

from capjax.run import evaluate, train

__all__ = ["evaluate", "train"]
