"""Memory of `capjax.caption` over thousands of images, half of them invalid. Linux only.

    python -m benchmarks.worker_memory --workdir runs/shapes_transformer [--images 10000]

Writes a few files of each kind to a temporary folder, repeatedly sends their names to a worker, and
prints its resident memory after every tenth of its answers.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

# Width and height, as of Flickr's photographs.
_SIZE = (500, 375)
_FILES = 20


def _files() -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of valid images, and of as many invalid ones."""
    rng = np.random.default_rng(0)
    for number in range(_FILES):
        coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        content = io.BytesIO()
        kind = ("JPEG", "PNG", "WEBP", "TIFF")[number % 4]
        Image.fromarray(coarse).resize(_SIZE).save(content, kind)
        whole = content.getvalue()
        yield f"{number}-good.jpg", whole
        header = b"P6 %d %d 255\n" % (100_000, 100_000)
        cut, flipped = whole[: len(whole) // 2], bytearray(whole)
        for place in rng.integers(0, len(whole), 20):
            flipped[place] ^= 0xFF
        bad = (cut, rng.bytes(100_000), header, b"", bytes(flipped))[number % 5]
        yield f"{number}-bad.jpg", bad


def _resident_mib(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch_size", default="32")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "capjax.caption", "--workdir", arguments.workdir, "--json"]
    command += ["--batch_size", arguments.batch_size, "-"]
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for name, content in _files():
            names.append(os.path.join(folder, name))
            Path(names[-1]).write_bytes(content)
        lines = os.path.join(folder, "names.txt")
        Path(lines).write_text(
            "".join(f"{names[i % len(names)]}\n" for i in range(arguments.images))
        )
        errors, start = 0, time.perf_counter()
        with (
            open(lines, "rb") as stdin,
            subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process,
        ):
            for count, line in enumerate(process.stdout, 1):
                errors += "error" in json.loads(line)
                if count % (arguments.images // 10) == 0:
                    seconds = time.perf_counter() - start
                    print(
                        f"{count} answers, {errors} errors: {_resident_mib(process.pid):.0f} MiB, "
                        f"{seconds:.0f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
