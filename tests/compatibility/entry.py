"""The one place that knows where the code of training and evaluating in this process lies.

Everything else in this folder uses only what is documented: commands, `capjax`, `configs.base`.
"""

from capjax.run.evaluate import evaluate
from capjax.run.train import train

__all__ = ["evaluate", "train"]
