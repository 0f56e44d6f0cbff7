"""What an objective needs of all references, and of the parameters that training begins with."""

import dataclasses
from typing import Any

from capjax.data.references import References
from capjax.metrics.reward import corpus_ids
from capjax.run.split import Split
from capjax.train.objective import Prepared


def prepare(
    objective: Prepared, splits: dict[str, Split], began: Any
) -> tuple[dict[str, Split], Any]:
    """Adds the references to the train split, and makes the objective's constants.

    Args:
      objective: the objective.
      splits: by name, without references.
      began: the trained parameters before the first step.
    """
    split = splits["train"]
    tokenizer = split.tokenizer
    captions = corpus_ids(tokenizer, split.table.captions)
    # A caption without a word has the end token alone.
    captions = captions.select(captions.lengths > 1)
    references = References(captions, tokenizer, seed=split.config.seed)
    sizes = {"eos_id": tokenizer.eos_id, "vocab_size": tokenizer.vocab_size}
    constants = objective.prepare(captions, began, **sizes)
    return {**splits, "train": dataclasses.replace(split, references=references)}, constants
