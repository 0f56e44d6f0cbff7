"""Decoding methods and their settings. Shapes: see docs/architecture.md; n captions an image."""

import dataclasses
import functools
import re
from typing import Any, Literal

import jax

from capjax.data.tokenizer import Tokenizer
from capjax.decode.beam import beam_search
from capjax.decode.consensus import choose
from capjax.decode.constrained import check_constraints, constrained_beam_search
from capjax.decode.diverse import diverse_beam_search
from capjax.decode.length import LengthNormalization
from capjax.decode.loop import Step
from capjax.decode.sampling import sample
from capjax.evaluate.control import (
    UNCONTROLLED,
    Control,
    SettingError,
    in_words,
    label_of,
    phrase_ids,
)
from capjax.evaluate.found import Found, cut, found_of, ranked
from capjax.models.contract import Carry

_LABELS = {
    "length_normalization": "",
    "num_beam_groups": "groups",
    "diversity_penalty": "diversity",
    "must_include": "must",
    "num_captions": "best",
}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=[
        "num_beams",
        "length_penalty",
        "early_stopping",
        "max_length",
        "num_captions",
        "length_normalization",
        "num_beam_groups",
        "diversity_penalty",
        "must_include",
        "control",
    ],
)
@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Settings of beam search, with the meaning they have in `transformers.generate`.

    A pytree without leaves: each setting is compiled separately.

    Attributes:
      num_beams: K; 1 is greedy.
      length_penalty: exponent of the length that divides the log-probability of a hypothesis.
      early_stopping: True, False or "never".
      max_length: largest number of tokens, with bos, prompt and eos.
      num_captions: n, at most K.
      length_normalization: "power", or "gnmt" (see `capjax.decode.length`).
      num_beam_groups: groups of beams that are to differ (Vijayakumar et al. 2018).
      diversity_penalty: subtracted from a token's score for each beam of an earlier group that
        took it at this step.
      must_include: words and phrases that must occur, in any order (Post and Vilar 2018).
      control: what captions may and must say.
    """

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_length: int
    num_captions: int = 1
    length_normalization: LengthNormalization = "power"
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    must_include: tuple[str, ...] = ()
    control: Control = UNCONTROLLED

    @property
    def label(self) -> str:
        """Part of the name of result files."""
        return (
            f"beam{self.num_beams}-lp{self.length_penalty:g}-max{self.max_length}-"
            f"early{str(self.early_stopping).lower()}"
            f"{label_of(self, _LABELS)}{self.control.label}"
        )

    @property
    def width(self) -> int:
        """K, the width of the carry."""
        return self.num_beams

    def check(self) -> None:
        """Raises SettingError for settings that exclude each other."""
        if self.num_captions > self.num_beams:
            raise SettingError(
                f"num_captions={self.num_captions} must be at most num_beams={self.num_beams}: "
                "beam search finds no more"
            )
        if self.num_beams % self.num_beam_groups:
            raise SettingError(
                f"num_beam_groups={self.num_beam_groups} must divide num_beams={self.num_beams}"
            )
        if self.num_beam_groups > 1 and not self.diversity_penalty > 0:
            raise SettingError(
                f"diversity_penalty={self.diversity_penalty:g} must be above 0 with "
                f"num_beam_groups={self.num_beam_groups}: without it the groups find the same"
            )
        if self.num_beam_groups == 1 and self.diversity_penalty:
            raise SettingError(
                f"diversity_penalty={self.diversity_penalty:g} needs num_beam_groups above 1"
            )
        if self.must_include and self.num_beam_groups > 1:
            raise SettingError(
                "must_include and num_beam_groups are of different searches: give one of them"
            )

    def check_words(self, tokenizer: Tokenizer) -> None:
        """Raises SettingError for words that the tokenizer can't say, or more than fit."""
        self.control.check(tokenizer, self.max_length)
        phrases = phrase_ids(tokenizer, "must_include", self.must_include)
        for text, phrase in zip(self.must_include, phrases, strict=True):
            if {*phrase} & {*tokenizer.banned_ids}:
                raise SettingError(f"must_include has {text!r}, which the model never says")
            self._check_phrases(f"must_include has {text!r}", tokenizer, (phrase,))
        self._check_phrases(f"must_include={self.must_include}", tokenizer, phrases)

    def _check_phrases(
        self, what: str, tokenizer: Tokenizer, phrases: tuple[tuple[int, ...], ...]
    ) -> None:
        if not phrases:
            return
        try:
            check_constraints(
                phrases,
                eos_id=tokenizer.eos_id,
                vocab_size=tokenizer.vocab_size,
                steps=self.max_length - 1 - len(self.control.prompt_ids(tokenizer)),
                processors=self.control.processors(tokenizer),
            )
        except ValueError as error:
            message = re.sub(r"^constraints has (\(.*?\), )?", "", in_words(str(error)))
            raise SettingError(f"{what}: {message}") from error

    def decode(
        self, step: Step, carry: Carry, index: jax.Array, tokenizer: Tokenizer, *, attention: bool
    ) -> Found:
        """The captions of a batch, the best first, and the attention of that one."""
        return cut(self.search(step, carry, index, tokenizer, attention), self.num_captions)

    def search(
        self, step: Step, carry: Carry, index: jax.Array, tokenizer: Tokenizer, attention: bool
    ) -> Found:
        """All hypotheses, the best first; `index` is not used."""
        del index
        options: dict[str, Any] = {
            **_options(self, tokenizer, attention),
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "length_normalization": self.length_normalization,
        }
        if self.num_beam_groups > 1:
            result = diverse_beam_search(
                step,
                carry,
                num_beam_groups=self.num_beam_groups,
                diversity_penalty=self.diversity_penalty,
                **options,
            )
        elif self.must_include:
            constraints = phrase_ids(tokenizer, "must_include", self.must_include)
            result = constrained_beam_search(step, carry, constraints=constraints, **options)
        else:
            result = beam_search(step, carry, **options)
        maps = result.attention
        return found_of(result, None if maps is None else maps[:, None])


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature", "seed"],
    meta_fields=["max_length", "top_k", "top_p", "min_p", "typical_p", "num_captions", "control"],
)
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of sampling captions for each image.

    A pytree: all temperatures and seeds share one compiled program.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      max_length: largest number of tokens, with bos, prompt and eos.
      seed: random seed.
      top_k: draws from the k likeliest tokens; None for all.
      top_p: draws from the likeliest tokens that have this probability together; None for all.
      min_p: draws from tokens with at least this share of the likeliest one's probability; None for
        all.
      typical_p: draws from the tokens of this probability together whose information is nearest to
        the expected (Meister et al. 2023); None for all.
      num_captions: samples of each image, of which the likeliest comes first.
      control: what captions may and must say.
    """

    temperature: float
    max_length: int
    seed: int = 0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    num_captions: int = 1
    control: Control = UNCONTROLLED

    @property
    def label(self) -> str:
        """Part of the name of result files."""
        limits = "" if self.top_k is None else f"-topk{self.top_k}"
        limits += "" if self.top_p is None else f"-topp{self.top_p:g}"
        limits += "" if self.min_p is None else f"-minp{self.min_p:g}"
        limits += "" if self.typical_p is None else f"-typical{self.typical_p:g}"
        more = label_of(self, _LABELS)
        return (
            f"temperature{self.temperature:g}{limits}-max{self.max_length}-seed{self.seed}"
            f"{more}{self.control.label}"
        )

    @property
    def width(self) -> int:
        """Samples of an image, the width of the carry."""
        return self.num_captions

    def check(self) -> None:
        """Raises SettingError for a temperature below 0."""
        if self.temperature < 0:
            raise SettingError(f"temperature must be 0 (greedy) or positive: {self.temperature:g}")

    def check_words(self, tokenizer: Tokenizer) -> None:
        """Raises SettingError for words that the tokenizer can't say, or more than fit."""
        self.control.check(tokenizer, self.max_length)

    def decode(
        self, step: Step, carry: Carry, index: jax.Array, tokenizer: Tokenizer, *, attention: bool
    ) -> Found:
        """The captions of a batch, the best first, and the attention of that one."""
        found = self.search(step, carry, index, tokenizer, attention)
        return found if self.num_captions == 1 else ranked(found)

    def search(
        self, step: Step, carry: Carry, index: jax.Array, tokenizer: Tokenizer, attention: bool
    ) -> Found:
        """The samples as drawn; those of an image depend on its `index` alone."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), index)
        result = sample(
            step,
            carry,
            keys,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            **_options(self, tokenizer, attention),
        )
        return found_of(result, result.attention)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["candidates", "table"],
    meta_fields=["reward", "reward_name", "num_captions"],
)
@dataclasses.dataclass(frozen=True)
class Consensus:
    """The candidate that agrees best with the other candidates: minimum Bayes risk.

    Each is scored by a reward with the others as references (Kumar and Byrne 2004), which count by
    their probability where they are of a beam search.

    Attributes:
      candidates: gives them.
      reward: a `capjax.metrics.reward.Reward`.
      reward_name: its registered name, or that of the sum.
      num_captions: how many different captions are returned, the best first.
      table: the reward's table of the train split.
    """

    candidates: BeamSearch | Sampling
    reward: Any
    reward_name: str
    num_captions: int = 1
    table: Any = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """Part of the name of result files; ends in another way than that of the candidates."""
        more = label_of(self, _LABELS)
        return f"{self.candidates.label}-consensus-{self.reward_name}{more}"

    @property
    def width(self) -> int:
        """The width of the carry."""
        return self.candidates.width

    @property
    def max_length(self) -> int:
        """Largest number of tokens, with bos, prompt and eos."""
        return self.candidates.max_length

    @property
    def control(self) -> Control:
        """What captions may and must say."""
        return self.candidates.control

    def check(self) -> None:
        """Raises SettingError for settings that exclude each other."""
        self.candidates.check()
        if self.candidates.num_captions < 2:
            raise SettingError("consensus needs 2 candidates or more")
        if self.num_captions > self.candidates.num_captions:
            raise SettingError(
                f"num_captions={self.num_captions} must be at most the number of candidates, "
                f"{self.candidates.num_captions}"
            )

    def check_words(self, tokenizer: Tokenizer) -> None:
        """Raises SettingError for words that the tokenizer can't say, or more than fit."""
        self.candidates.check_words(tokenizer)

    def decode(
        self, step: Step, carry: Carry, index: jax.Array, tokenizer: Tokenizer, *, attention: bool
    ) -> Found:
        """The candidates of a batch by their expected reward, the best first."""
        found = self.candidates.search(step, carry, index, tokenizer, attention)
        # Samples are as frequent as they are likely; hypotheses are there once.
        weights = found.log_probs if isinstance(self.candidates, BeamSearch) else None
        _, expected = choose(self.reward, self.table, found.tokens, found.lengths, weights)
        return ranked(dataclasses.replace(found, scores=expected))


Method = BeamSearch | Sampling | Consensus


def settings_of(method: Method) -> dict[str, Any]:
    """All settings of a method, for JSON."""
    found = {
        name: value for name, value in vars(method).items() if name not in ("table", "reward_name")
    }
    for name in ("control", "reward"):
        if name in found:
            found[name] = dataclasses.asdict(found[name])
    if isinstance(method, Consensus):
        found["reward"] = {"name": method.reward_name, **found["reward"]}
        found["candidates"] = settings_of(method.candidates)
    return {"method": type(method).__name__, **found}


def _options(
    method: BeamSearch | Sampling, tokenizer: Tokenizer, attention: bool
) -> dict[str, Any]:
    """The options that all searches take."""
    return {
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "max_length": method.max_length,
        "return_attention": attention,
        "processors": method.control.processors(tokenizer),
        "prompt": method.control.prompt_ids(tokenizer),
    }
