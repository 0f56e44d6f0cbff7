"""Time to the first training step, with an empty and a filled compilation cache.

    python -m benchmarks.startup [--config configs/shapes_transformer.py]

Runs `capjax.main` for 20 steps twice: with an empty compilation cache, and with the cache that the
first run has filled. The data are prepared before. Also prints the peak memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

STEPS = 20


def run(config: str, workdir: str, cache: str) -> dict[str, float]:
    """Times a process, in seconds, to the log of its first step and to its end."""
    command = [sys.executable, "-m", "capjax.main", "--config", config, "--workdir", workdir]
    command += ["--compilation_cache", cache, f"--config.num_steps={STEPS}"]
    command += ["--config.optimizer.warmup_steps=5", "--config.evaluation.num_samples=0"]
    log = os.path.join(workdir, "metrics.jsonl")
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (os.path.exists(log) and os.path.getsize(log)):
            time.sleep(0.02)
        first = time.perf_counter() - start
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed")
    return {"first step s": first, "whole run s": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/shapes_transformer.py")
    config = parser.parse_args().config
    with tempfile.TemporaryDirectory() as folder:
        cache = os.path.join(folder, "cache")
        run(config, os.path.join(folder, "prepare"), os.path.join(folder, "other"))
        for name in ("cold", "cached"):
            figures = run(config, os.path.join(folder, name), cache)
            print(name, ", ".join(f"{what} {value:.1f}" for what, value in figures.items()))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of a run with its evaluation: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
