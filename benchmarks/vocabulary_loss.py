"""An output layer and its cross-entropy, value and gradients, over large vocabularies.

    python -m benchmarks.vocabulary_loss [--words 50257 250000] [--tokens 2048] [--width 256]
        [--rounds 3]

Random states of `--tokens` tokens, `--width` wide, in float32. "whole" has the logits of all tokens
in memory, "chunks" those of as many as training takes at once (`chunked_losses`), and "torch" is
`cross_entropy` of a matrix product. The sides take turns in processes of their own: seconds are the
median of `--repeats` calls after a first one, and "peak MiB" is all memory of the process. Printed
besides are the loss and "temporary", the MiB that XLA reserves beside states, kernel and gradients.
The fraction of the limit is by operations: three products of the kernel's size, whatever a side
computes again.
"""

import argparse
import json

import numpy as np

from benchmarks.rows import Report
from benchmarks.sides import alternate, peak_memory_mib, progress, timed

SIDES = ("torch", "whole", "chunks")


def draw(words: int, tokens: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A kernel [V, D], states [tokens, D] and targets [tokens]."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((words, width), np.float32) * np.float32(0.05)
    states = rng.standard_normal((tokens, width), np.float32)
    return kernel, states, rng.integers(0, words, tokens, np.int32)


def run_torch(words: int, tokens: int, width: int, repeats: int) -> dict:
    import torch

    kernel, states, targets = map(torch.from_numpy, draw(words, tokens, width))
    kernel.requires_grad_()
    states.requires_grad_()

    def call() -> float:
        kernel.grad = states.grad = None
        loss = torch.nn.functional.cross_entropy(states @ kernel.T, targets.long())
        loss.backward()
        return loss.item()

    _, seconds, loss = timed(repeats, call)
    return {"seconds": seconds, "loss": loss, "peak_memory_mib": peak_memory_mib()}


def run_capjax(side: str, words: int, tokens: int, width: int, repeats: int) -> dict:
    import jax
    import jax.numpy as jnp

    from capjax.train.loss import chunked_losses, token_losses
    from capjax.train.objective import MOST_LOGITS

    kernel, states, targets = map(jnp.asarray, draw(words, tokens, width))
    real = jnp.ones(tokens, bool)

    def loss(kernel, states):
        if side == "whole":
            losses = token_losses(states @ kernel.T, targets, real)
        else:
            chunk = max(1, MOST_LOGITS // words)
            losses = chunked_losses(lambda x, _: x @ kernel.T, states, targets, real, chunk=chunk)
        return losses.sums()["loss"] / tokens

    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(kernel, states).compile()
    _, seconds, value = timed(
        repeats, lambda: float(jax.block_until_ready(program(kernel, states))[0])
    )
    temporary = program.memory_analysis().temp_size_in_bytes / 2**20
    found = {"seconds": seconds, "loss": value, "temporary": temporary}
    return {**found, "peak_memory_mib": peak_memory_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", type=int, nargs="+", default=(50_257, 250_000))
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process")
    arguments = parser.parse_args()
    sizes = arguments.tokens, arguments.width, arguments.repeats
    if arguments.side:
        words = arguments.words[0]
        if arguments.side == "torch":
            print(json.dumps(run_torch(words, *sizes)))
        else:
            print(json.dumps(run_capjax(arguments.side, words, *sizes)))
        return
    report = Report()
    rest = [f"--{name}={getattr(arguments, name)}" for name in ("tokens", "width", "repeats")]
    for words in arguments.words:
        options = [f"--words={words}", *rest]
        found = alternate("vocabulary_loss", SIDES, arguments.rounds, *options)
        for side, (one, *_) in found.items():
            temporary = f", temporary {one['temporary']:.0f} MiB" if "temporary" in one else ""
            progress(f"{words:,} words, {side}: loss {one['loss']:.5f}{temporary}")
        needs = {"flops": 3.0 * 2 * arguments.tokens * arguments.width * words}
        for side in SIDES[1:]:
            what = f"loss over {words:,} words, {side}"
            report.add(what, "torch", found["torch"], found[side], needs=needs)
    report.close()


if __name__ == "__main__":
    main()
