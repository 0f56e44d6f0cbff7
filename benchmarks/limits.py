"""What this machine gives: float32 matrix products, memory bandwidth, and a copy by one thread.

    python -m benchmarks.limits [--two_cores] [--seconds 0.25]

"GFLOP/s" is the best of all matrix products below, [m, k] by [k, n] with 2 m k n operations, each
by XLA and by NumPy's BLAS. Their sizes are those of the other benchmarks, and a square one. "GB/s"
is the best of two passes over arrays of 256 MiB, far larger than a CPU's cache, by XLA and by NumPy
in as many threads as there are cores: `update`, a += s * b, which moves 12 bytes an element
(STREAM's triad in place, so that no memory is read only to be overwritten), and `read`, a maximum,
which moves 4. The copy, `numpy.copyto`, moves 8 and is one thread's. A rate is that of the fastest
call in `--seconds`, of three calls or more.

Other benchmarks run this before their rounds and print which fraction of these limits they reach;
`benchmarks/rows.py` has the arithmetic, `benchmarks/needs.py` what a model needs.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.sides import cores, progress, use_two_cores

# Name, m, k, n.
PRODUCTS = (
    ("tutorial's decoder, feed-forward of 960 words", 960, 256, 512),
    ("tutorial's decoder, output of 960 words", 960, 256, 2541),
    ("Show-Attend-Tell, keys of 32 images", 6272, 2048, 512),
    ("Show-Attend-Tell, gates of 160 captions", 160, 3072, 2048),
    ("ViT-B/16, feed-forward of 8 images", 1576, 768, 3072),
    ("GPT-2, feed-forward of 32 beams", 32, 768, 3072),
    ("GPT-2, output of 32 beams", 32, 768, 50257),
    ("GPT-2, output of 128 words", 128, 768, 50257),
    ("square", 2048, 2048, 2048),
)
FLOATS = 1 << 26  # Of a streamed array.
BLOCK = 1 << 15  # Floats that a NumPy thread takes at once, 128 KiB: they stay in its cache.


def fastest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of three calls or more, which take `seconds` or longer; one warms."""
    call()
    found: list[float] = []
    while len(found) < 3 or sum(found) < seconds:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def product(m: int, k: int, n: int, seconds: float) -> dict[str, float]:
    """GFLOP/s of a product of [m, k] and [k, n], by XLA and by NumPy."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape, np.float32) for shape in ((m, k), (k, n)))
    out = np.empty((m, n), np.float32)
    placed = jax.device_put((a, b))
    compiled = jax.jit(jnp.matmul).lower(*placed).compile()
    calls = {
        "xla": lambda: compiled(*placed).block_until_ready(),
        "numpy": lambda: np.matmul(a, b, out=out),
    }
    work = 2e-9 * m * k * n
    return {name: work / fastest(call, seconds) for name, call in calls.items()}


def streams_xla(seconds: float) -> dict[str, float]:
    """GB/s of `update` and `read` by XLA."""
    import jax
    import jax.numpy as jnp

    a, b = jnp.zeros(FLOATS), jnp.ones(FLOATS)
    rows = 64  # A reduction to one number would be one thread's.
    update = jax.jit(lambda a, b: a + 1e-6 * b, donate_argnums=0)
    read = jax.jit(lambda b: b.reshape(rows, -1).max(axis=1))

    def updated() -> None:
        nonlocal a
        a = update(a, b).block_until_ready()

    return {
        "update": 12e-9 * FLOATS / fastest(updated, seconds),
        "read": 4e-9 * FLOATS / fastest(lambda: read(b).block_until_ready(), seconds),
    }


def streams_numpy(seconds: float, threads: int) -> dict[str, float]:
    """GB/s of `update` and `read` by NumPy in threads, and of the copy by one."""
    import numpy as np

    a, b = np.zeros(FLOATS, np.float32), np.ones(FLOATS, np.float32)
    parts = [list(zip(*map(blocks, pair), strict=True)) for pair in shares(a, b, threads)]

    def update(pairs: list) -> None:
        scratch = np.empty(BLOCK, np.float32)
        for x, y in pairs:
            np.multiply(y, np.float32(1e-6), out=scratch)
            np.add(x, scratch, out=x)

    def read(pairs: list) -> None:
        for _, y in pairs:
            y.max()

    with ThreadPoolExecutor(threads) as pool:
        return {
            "update": 12e-9 * FLOATS / fastest(lambda: list(pool.map(update, parts)), seconds),
            "read": 4e-9 * FLOATS / fastest(lambda: list(pool.map(read, parts)), seconds),
            "copy": 8e-9 * FLOATS / fastest(lambda: np.copyto(a, b), seconds),
        }


def shares(a, b, threads: int) -> list:
    """Pairs of slices of `a` and `b`, whole blocks, one for each thread."""
    size = -(-FLOATS // (threads * BLOCK)) * BLOCK
    return [(a[at : at + size], b[at : at + size]) for at in range(0, FLOATS, size)]


def blocks(x) -> list:
    return [x[at : at + BLOCK] for at in range(0, len(x), BLOCK)]


def measure_limits(seconds: float) -> dict:
    """All rates of this process's cores; the limits are "gflops" and "gb_per_s"."""
    products: list[dict] = []
    for name, m, k, n in PRODUCTS:
        rates = product(m, k, n, seconds)
        products.append({"name": name, "m": m, "k": k, "n": n, **rates})
        progress(name, *(f"{side} {rate:.0f}" for side, rate in rates.items()))
    streams = {"xla": streams_xla(seconds), "numpy": streams_numpy(seconds, cores())}
    copy = streams["numpy"].pop("copy")
    return {
        "cores": cores(),
        "gflops": max(rate for one in products for rate in (one["xla"], one["numpy"])),
        "gb_per_s": max(rate for one in streams.values() for rate in one.values()),
        "copy_gb_per_s": copy,
        "products": products,
        "streams": streams,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--two_cores", action="store_true", help="use two cores at most")
    parser.add_argument("--seconds", type=float, default=0.25, help="time for each rate")
    arguments = parser.parse_args()
    if arguments.two_cores:
        use_two_cores()  # Before NumPy and JAX count them.
    found = measure_limits(arguments.seconds)
    print("| float32 | size | XLA | NumPy |\n|---|---|---|---|")
    for one in found["products"]:
        size = f"{one['m']} x {one['k']} x {one['n']}"
        print(f"| {one['name']}, GFLOP/s | {size} | {one['xla']:.0f} | {one['numpy']:.0f} |")
    for name in ("update", "read"):
        rates = (f"{found['streams'][side][name]:.1f}" for side in ("xla", "numpy"))
        print(f"| {name}, GB/s | {4 * FLOATS >> 20} MiB | {' | '.join(rates)} |")
    print(f"| copy by one thread, GB/s | {4 * FLOATS >> 20} MiB | | {found['copy_gb_per_s']:.1f} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
