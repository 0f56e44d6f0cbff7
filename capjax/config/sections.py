"""Types of the config fields that belong to no part: the run's own and the small sections'.

`configs/base.py` has a comment for each.
"""

import dataclasses
from typing import Annotated, Literal

from capjax.models.lora_fields import Lora
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
    prompt: str
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
class LoraFields(Lora):
    """The section `lora`."""

    weights: str


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


# What each decoding setting is, in a line.
ABOUT = {
    "method": "beam, sample or consensus; other flags imply it",
    "num_captions": "captions of each image, the best first",
    "num_beams": "beams; 1 is greedy",
    "length_penalty": "exponent of the length in a beam's score",
    "length_normalization": "that length: power or gnmt",
    "early_stopping": "true, false, or never: until no better one is possible",
    "num_beam_groups": "groups of beams that are to differ",
    "diversity_penalty": "what it costs to take the word of another group",
    "must_include": "words or phrases that must occur, with commas between",
    "max_length": "most tokens, with start and end",
    "temperature": "sample at this temperature instead; 0 is greedy",
    "top_k": "sample from the K likeliest tokens",
    "top_p": "sample from the likeliest tokens that have this probability",
    "min_p": "sample from tokens with at least this share of the likeliest one's",
    "typical_p": "sample from the most typical tokens of this probability",
    "seed": "seed of the samples",
    "candidates": "consensus among: sample or beam",
    "num_samples": "consensus among so many samples",
    "rewards": "consensus by the sum of: cider_d, bleu4, a registered reward",
    "reward_weights": "the weight of each, with commas between",
    "prompt": "words that every caption begins with",
    "repetition_penalty": "above 1 makes words that occurred less likely",
    "no_repeat_ngram_size": "no sequence of N tokens occurs twice",
    "min_length": "fewest tokens before the end, with start and prompt",
    "min_new_tokens": "fewest tokens before the end, without these",
    "bad_words": "words or phrases that may not occur, with commas between",
    "suppress": "words of one token that may not occur",
    "suppress_first": "words that no caption begins with",
    "forced_first": "word that every caption begins with",
    "forced_last": "word at the length limit",
    "bad_endings": "words that no caption ends with: a,the,with",
    "allowed": "the only captions that there may be",
}
