"""What logits processors cost: a beam search of ViT-B/16 with GPT-2 small, with and without them.

    python -m benchmarks.processor_speed [--repeats 12] [--tokens 16]

Random weights, the memories of 8 images, 4 beams, a vocabulary of 50257 tokens; no caption ends
early. Both searches are compiled before, and take turns in one process. The encoder is left out,
which makes the share of the processors larger than it is in captioning. Printed are the least time
of a step, its ratio to that without processors, and the median of the ratios of neighbouring calls.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from capjax.decode.beam import beam_search
from capjax.decode.processors import UNPROCESSED, Processors
from capjax.models.contract import Memory
from capjax.models.decoders.gpt2 import GPT2Decoder

IMAGES, BEAMS, VOCABULARY = 8, 4, 50257
END = VOCABULARY - 1


def every_processor(rng: np.random.Generator) -> Processors:
    """All processors at once, with a hundred phrases and ninety suppressed tokens."""

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.choice(END, count, replace=False).tolist())

    return Processors(
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        bad_words_ids=tuple(tokens(1 + number % 3) for number in range(100)),
        min_length=8,
        bad_endings=tokens(20),
        forced_bos_token_id=3,
        forced_eos_token_id=END,
        suppress_tokens=tuple(set(tokens(90)) - {3}),
        begin_suppress_tokens=(220, END),
    )


def searches(tokens: int) -> dict[str, Callable[[], object]]:
    """The compiled searches, by name."""
    rng = np.random.default_rng(0)
    model = GPT2Decoder(vocab_size=VOCABULARY)
    memory = Memory(rng.normal(size=(IMAGES, 197, 768)).astype(np.float32), (14, 14), 1)
    fed = np.zeros((IMAGES, 1, 2), np.int32)
    variables = jax.jit(lambda key: model.init(key, memory, fed, train=False))(jax.random.key(0))
    ids = {"bos_id": END, "eos_id": END, "pad_id": END, "max_length": tokens + 1}

    def compiled(processors: Processors) -> Callable[[], object]:
        @jax.jit
        def run(variables, memory):
            def step(carry, token):
                return model.apply(variables, carry, token, method="step")

            carry = model.apply(variables, memory, BEAMS, tokens, method="init_carry")
            options = {"num_beams": BEAMS, "processors": processors}
            return beam_search(step, carry, **ids, **options).tokens

        return lambda: run(variables, memory).block_until_ready()

    every = every_processor(rng)
    return {"none": compiled(UNPROCESSED), "all": compiled(every)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=16)
    args = parser.parse_args()
    calls = searches(args.tokens)
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    print(f"{jax.devices()[0].device_kind}, {args.tokens} steps, {args.repeats} repeats")
    for name, taken in seconds.items():
        ratios = [one / none for one, none in zip(taken, seconds["none"], strict=True)]
        print(
            f"{name:5} least {1e3 * min(taken) / args.tokens:8.3f} ms a step, ratio "
            f"{min(taken) / min(seconds['none']):.3f}; median {statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
