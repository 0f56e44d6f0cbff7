"""What an objective needs of all references, and of the parameters that training begins with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from capjax.data.caption_cache import open_references
from capjax.data.captions import CaptionTable
from capjax.data.ragged import Ragged
from capjax.data.references import References
from capjax.data.sections import cache_dir
from capjax.data.tokenizer import Tokenizer
from capjax.metrics.reward import corpus_ids
from capjax.parallel import processes
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
    with processes.primary_first():
        captions = encode_references(split.table, tokenizer, split.config.dataset)
    # A caption without a word has the end token alone.
    captions = captions.select(captions.lengths > 1)
    references = References(captions, tokenizer, seed=split.config.seed)
    sizes = {"eos_id": tokenizer.eos_id, "vocab_size": tokenizer.vocab_size}
    constants = objective.prepare(captions, began, **sizes)
    return {**splits, "train": dataclasses.replace(split, references=references)}, constants


def encode_references(
    table: CaptionTable, tokenizer: Tokenizer, section: Mapping[str, Any]
) -> Ragged:
    """`corpus_ids` of all captions, cached in `cache_dir` of a config's `dataset` section."""

    def encode() -> Ragged:
        return corpus_ids(tokenizer, table.captions)

    return open_references(table, tokenizer, cache_dir(section), encode)
