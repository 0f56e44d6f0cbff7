"""Types of the config fields that belong to no part: the run's own and the small sections'.

`configs/base.py` has a comment for each.
"""

import dataclasses
from typing import Annotated, Literal

from capjax.parts.types import (
    BatchSize,
    Count,
    CountOrZero,
    Finite,
    Length,
    Lengths,
    Name,
    Names,
    NotNegative,
    Positive,
    PositiveShare,
    Rate,
    RewardNames,
    RewardWeights,
    Seed,
    Share,
)


@dataclasses.dataclass(frozen=True)
class RunFields:
    """The fields outside of all sections."""

    seed: Seed
    init_from: str
    init_parts: Names
    init_tokenizer: bool
    dtype: Literal["float32", "bfloat16"]
    fused_attention: bool
    batch_size: BatchSize
    num_steps: Count
    accumulate: Count
    ema_decay: Rate
    label_smoothing: Rate
    attention_penalty: NotNegative
    log_every: Count
    eval_every: Count
    checkpoint_every: CountOrZero
    wandb_project: str


@dataclasses.dataclass(frozen=True)
class WordVectorFields:
    """The section `word_vectors`."""

    file: str
    frozen: bool


@dataclasses.dataclass(frozen=True)
class HardAttentionFields:
    """The section `hard_attention`."""

    reinforce_weight: NotNegative
    entropy_weight: NotNegative


@dataclasses.dataclass(frozen=True)
class EvaluationFields:
    """The section `evaluation`."""

    batch_size: BatchSize
    num_samples: CountOrZero
    temperatures: Annotated[tuple[NotNegative, ...], Lengths(0, 99, "numbers of 0 or more")]
    metrics: Annotated[tuple[Name, ...], Lengths(0, 99, "names")]


@dataclasses.dataclass(frozen=True)
class DecodingFields:
    """The section `decoding`."""

    method: Literal["beam", "sample", "consensus"]
    num_captions: Count
    num_beams: Count
    length_penalty: Finite
    length_normalization: Literal["power", "gnmt"]
    early_stopping: Literal["true", "false", "never"]
    num_beam_groups: Count
    diversity_penalty: NotNegative
    must_include: Names
    temperature: NotNegative
    top_k: CountOrZero
    top_p: PositiveShare
    min_p: Share
    typical_p: PositiveShare
    seed: Seed
    candidates: Literal["sample", "beam"]
    num_samples: Count
    rewards: RewardNames
    reward_weights: RewardWeights
    prompt: str
    repetition_penalty: Positive
    no_repeat_ngram_size: CountOrZero
    min_length: CountOrZero
    min_new_tokens: CountOrZero
    bad_words: Names
    suppress: Names
    suppress_first: Names
    forced_first: str
    forced_last: str
    bad_endings: Names
    allowed: Annotated[tuple[Name, ...], Lengths(0, 1_000_000, "captions")]
    max_length: Length
