"""Each convolution of an encoder by itself, in XLA's forms and beside TensorFlow's.

    python -m benchmarks.layer_speed [--encoder inception_v3] [--repeats 20] [--rounds 3]

The layers are those that the traced encoder has for one image, float32. Each distinct one runs with
random values as XLA compiles it; without the convolutions of YNN, one of XLA's two libraries for
them; as one matrix product over copied patches; and in TensorFlow, whose convolutions on CPUs are
oneDNN's. They take turns in one process on two cores, and a figure is the median over rounds of the
least time. Sums are over all layers of an image; "best of XLA" takes the quickest form of each.
"""

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.encoder_speed import ENCODERS, SIDES, make_encoder
from benchmarks.feature_speed import SIDE
from benchmarks.sides import progress, use_two_cores

FORMS = ("XLA", "XLA without YNN", "one product", "TensorFlow")


class Layer(NamedTuple):
    """A convolution of one image: sizes in and of the kernel, strides and padding by axis."""

    size: tuple[int, int]
    channels: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def out(self) -> tuple[int, ...]:
        """Height and width of the result."""
        axes = zip(self.size, self.kernel, self.strides, self.padding, strict=True)
        return tuple((side + sum(pad) - k) // stride + 1 for side, k, stride, pad in axes)

    @property
    def gflop(self) -> float:
        return 2e-9 * math.prod((*self.out, *self.kernel, *self.channels))

    def __str__(self) -> str:
        texts = ("x".join(map(str, pair)) for pair in (self.size, self.channels, self.kernel))
        stride = "" if self.strides == (1, 1) else f", stride {self.strides[0]}"
        return "{}, {} channels, kernel {}".format(*texts) + stride


def layers_of(name: str) -> Counter[Layer]:
    """The ordinary convolutions of an encoder, each with how often it occurs.

    A matrix product over the channels of a map is one of 1x1.
    """
    import jax

    encoder, side = make_encoder(name), SIDES.get(name, SIDE)
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)

    def run(key: Any, images: Any) -> Any:
        return encoder.init_with_output(key, images, train=False)[0]

    found: Counter[Layer] = Counter()
    for equation in _convolutions(jax.make_jaxpr(run)(jax.random.key(0), images).jaxpr):
        options = equation.params
        x, kernel = (value.aval.shape for value in equation.invars)
        if equation.primitive.name == "dot_general":
            if len(x) == 4 and len(kernel) == 2:
                found[Layer(x[1:3], kernel, (1, 1), (1, 1), ((0, 0), (0, 0)))] += 1
        elif options["feature_group_count"] == 1:
            strides, padding = options["window_strides"], options["padding"]
            found[Layer(x[1:3], kernel[2:], kernel[:2], strides, padding)] += 1
    return found


def _convolutions(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _convolutions(inner)


def forms(layer: Layer) -> dict[str, Callable[[], object]]:
    """A call of each form, which waits for its result."""
    import jax
    import jax.numpy as jnp
    import tensorflow as tf

    from capjax.parallel.devices import STEP_OPTIONS

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, *layer.size, layer.channels[0])).astype(np.float32)
    kernel = rng.normal(size=(*layer.kernel, *layer.channels)).astype(np.float32)
    layout = ("NHWC", "HWIO", "NHWC")

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, layer.strides, layer.padding, dimension_numbers=layout
        )

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), *layer.padding, (0, 0)))
        rows, columns = layer.out
        down, right = layer.strides
        patches = [
            x[:, i : i + down * (rows - 1) + 1 : down, j : j + right * (columns - 1) + 1 : right]
            for i in range(layer.kernel[0])
            for j in range(layer.kernel[1])
        ]
        matrix = jnp.concatenate(patches, axis=-1).reshape(rows * columns, -1)
        found = matrix @ kernel.reshape(-1, layer.channels[1])
        return found.reshape(1, rows, columns, -1)

    @tf.function
    def theirs(x: Any, kernel: Any) -> Any:
        return tf.nn.conv2d(x, kernel, layer.strides, [[0, 0], *layer.padding, [0, 0]])

    ours = jax.device_put((x, kernel))
    plain = jax.jit(convolution).lower(*ours).compile()
    without = jax.jit(convolution).lower(*ours).compile(compiler_options=STEP_OPTIONS)
    whole = jax.jit(product).lower(*ours).compile()
    given = tf.constant(x), tf.constant(kernel)
    expected = theirs(*given).numpy()
    for name, found in (("convolution", plain(*ours)), ("product", whole(*ours))):
        if not np.allclose(found, expected, atol=1e-2):
            raise SystemExit(f"{name} of {layer} differs from TensorFlow's")
    calls: dict[str, Callable[[], object]] = {
        "XLA": lambda: plain(*ours).block_until_ready(),
        "XLA without YNN": lambda: without(*ours).block_until_ready(),
        "one product": lambda: whole(*ours).block_until_ready(),
        "TensorFlow": lambda: theirs(*given).numpy(),
    }
    return calls


def milliseconds(layer: Layer, repeats: int, rounds: int) -> dict[str, float]:
    calls = forms(layer)
    least: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            least[name].append(1000 * min(seconds))
    return {name: statistics.median(values) for name, values in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", choices=ENCODERS, default="inception_v3")
    parser.add_argument("--repeats", type=int, default=20, help="calls of a layer in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, in which all forms run")
    arguments = parser.parse_args()
    use_two_cores()
    counts = layers_of(arguments.encoder)
    rows = []
    for layer, count in counts.items():
        rows.append((layer, count, milliseconds(layer, arguments.repeats, arguments.rounds)))
        progress(f"{len(rows)} of {len(counts)}: {layer}")
    print(f"| layer | times | GFLOP | {' ms | '.join(FORMS)} ms |")
    print(f"|---|---|---|{'---|' * len(FORMS)}")
    rows.sort(key=lambda row: row[1] * (row[2]["TensorFlow"] - row[2]["XLA"]))
    for layer, count, found in rows:
        figures = " | ".join(f"{found[name]:.2f}" for name in FORMS)
        print(f"| {layer} | {count} | {layer.gflop:.3f} | {figures} |")
    sums = {name: sum(count * found[name] for _, count, found in rows) for name in FORMS}
    figures = " | ".join(f"{sums[name]:.1f}" for name in FORMS)
    gflop = sum(count * layer.gflop for layer, count, _ in rows)
    print(f"| all | {sum(counts.values())} | {gflop:.2f} | {figures} |")
    best = sum(count * min(found[name] for name in FORMS[:3]) for _, count, found in rows)
    print(f"\nBest of XLA: {best:.1f} ms an image; TensorFlow: {sums['TensorFlow']:.1f} ms.")


if __name__ == "__main__":
    main()
