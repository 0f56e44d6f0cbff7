"""A step of self-critical training beside one of cross-entropy, and the reward's share of it.

    python -m benchmarks.self_critical_speed [--repeats 20] [--images 16] [--samples 5]

The model of `flickr8k_transformer` on cached features [49, 1280], random weights, with the settings
of its stage `:self_critical`. Cross-entropy takes as many captions of an image as the other draws,
of as many tokens (`objective.max_length`), so that both pass the same arrays through the decoder.
The steps, and the reward of the same samples by itself, are compiled before and take turns in one
process. Parts of the step are its samples, and all but samples and reward: the teacher-forced pass
and its gradient. "host" is pycocoevalcap's CIDEr-D of as many captions, in a process of its own.

Figures are medians over repeats. An untrained model's samples go on to the end, so that sampling
takes as long as it can.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.reward_speed import CORPUS, EOS, REFERENCES, VOCABULARY, draw
from benchmarks.sides import measure
from capjax.config import build
from capjax.data.tokenizer import train_word_tokenizer
from capjax.models.captioner import FeatureEncoder
from capjax.parallel import devices
from capjax.train.objectives.cross_entropy import CrossEntropy
from capjax.train.state import init_state
from capjax.train.step import make_train_step
from configs import flickr8k_transformer

POSITIONS, FEATURES = 49, 1280


def laid_out(captions: list[list[np.ndarray]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Captions as int32 [B, C, T], and their lengths [B, C]."""
    tokens = np.zeros((len(captions), len(captions[0]), length), np.int32)
    for image, own in enumerate(captions):
        for place, ids in enumerate(own):
            tokens[image, place, : len(ids)] = ids
    return tokens, np.array([[len(ids) for ids in own] for own in captions], np.int32)


def calls(images: int, samples: int) -> dict[str, Callable[[], object]]:
    """The compiled calls, by name."""
    config = flickr8k_transformer.get_config("self_critical")
    config.objective.samples = samples
    tokenizer = train_word_tokenizer([f"w{word}" for word in range(VOCABULARY - 4)])
    if tokenizer.eos_id != EOS:
        raise ValueError(f"captions end with {EOS} here, and the tokenizer's with another token")
    model = build.captioner(config, tokenizer).clone(encoder=FeatureEncoder((7, 7)))
    params = model.init_variables(jax.random.key(0), (POSITIONS, FEATURES))["params"]
    self_critical: Any = build.objective(config, tokenizer)
    constants = self_critical.prepare(
        draw(0, CORPUS, REFERENCES), params, eos_id=EOS, vocab_size=tokenizer.vocab_size
    )
    length = config.objective.max_length
    rng = np.random.default_rng(1)
    given, given_lengths = laid_out(draw(0, images, REFERENCES), length)
    fed = rng.integers(4, VOCABULARY, (images, samples, length + 1)).astype(np.int32)
    batch = devices.shard(
        {
            "features": rng.normal(size=(images, POSITIONS, FEATURES)).astype(np.float32),
            "tokens": fed,
            "lengths": np.full((images, samples), length, np.int32),
            "references": given,
            "reference_lengths": given_lengths,
            "keys": rng.integers(2**32, size=(images, 2), dtype=np.uint32),
        }
    )
    optimizer = optax.adamw(2e-5)

    def training(objective: Any, constants: Any = None) -> Callable[[], object]:
        state = init_state(params, optimizer, ema=False)
        state = devices.replicate(dataclasses.replace(state, constants=constants))
        step = make_train_step(model, optimizer, seed=0, objective=objective)
        update = devices.map_step(step)

        def call() -> object:
            nonlocal state
            state, metrics = update(state, batch)
            return jax.block_until_ready(metrics)

        return call

    variables, local = {"params": params}, jax.tree.map(lambda x: x[0], batch)

    @jax.jit
    def sampled(variables, batch):
        memory = model.apply(variables, batch["features"], method="encode")
        found = self_critical._draw(model, variables, memory, batch, samples, 0.7)
        return found.tokens, found.lengths

    @jax.jit
    def rewarded(table, tokens, lengths, batch):
        captions = tokens, lengths, batch["references"], batch["reference_lengths"]
        return self_critical._reward(table, *captions)

    drawn, table = sampled(variables, local), jax.device_put(constants["table"])
    return {
        "self-critical": training(self_critical, constants),
        "cross-entropy": training(CrossEntropy(label_smoothing=0.1)),
        "samples": lambda: jax.block_until_ready(sampled(variables, local)),
        "reward": lambda: jax.block_until_ready(rewarded(table, *drawn, local)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20, help="calls of each part")
    parser.add_argument("--images", type=int, default=16, help="images of a step")
    parser.add_argument("--samples", type=int, default=5, help="captions of an image")
    arguments = parser.parse_args()
    every = calls(arguments.images, arguments.samples)
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for call in every.values():
        call()
    for _ in range(arguments.repeats):
        for name, call in every.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()}
    sizes = ["--images", str(arguments.images), "--samples", str(arguments.samples)]
    ms["host"] = measure("reward_speed", "--side", "pycocoevalcap", *sizes)["ms"]
    whole = ms["self-critical"]
    print("| part | ms | of a self-critical step |\n|---|---|---|")
    for name, value in ms.items():
        print(f"| {name} | {value:.1f} | {100 * value / whole:.1f}% |")
    ratios = map(lambda a, b: a / b, seconds["self-critical"], seconds["cross-entropy"])
    print(f"self-critical / cross-entropy: {statistics.median(ratios):.2f} (median of pairs)")


if __name__ == "__main__":
    main()
