"""Hostile clients of `capjax serve` beside others.

    python -m benchmarks.serve_hostile --workdir RUN --images FOLDER [--cases FOLDER]

Broken images, malformed and oversized requests, clients that leave, slow ones and unusual settings
go on for some seconds, beside two clients who ask as one should. Prints the server's memory over
time, how many captions of the latter differ from those of `capjax caption`, and what they waited;
ends with status 1 where one was wrong.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.serve_load import (
    Client,
    Served,
    arguments,
    command_captions,
    differences,
    images_of,
    percentile,
    served_captions,
)

# What hostile clients do: each function does one thing to a server, again and again.


def _leaves(port: int, image: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as gone:
        head = f"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
        gone.sendall(head.encode() + image[: random.choice((10, len(image) // 2, len(image)))])
        time.sleep(random.random() / 20)


def _slow(port: int, image: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
        slow.sendall(b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n")
        for byte in image[:60]:
            slow.sendall(bytes([byte]))
            time.sleep(0.5)


def _silent(port: int, image: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
        silent.sendall(b"GET /models HTTP/1.1\r\nHo")
        silent.recv(1)


def _no_http(port: int, image: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as other:
        other.sendall(random.choice((os.urandom(300), b"A" * 200_000, b"GET / HTTP/9.9\r\n\r\n")))
        other.recv(1000)


def _oversized(port: int, image: bytes) -> None:
    Client(port).ask(b"x" * (40 * 2**20))


def _malformed(port: int, image: bytes) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    bodies = (
        b"--b",
        part,
        part * 400,
        part + image[:99],
        b"--b\r\n" + b"A" * 10**6,
        os.urandom(500),
    )
    Client(port).ask(random.choice(bodies), headers=kind)


def _settings(port: int, image: bytes) -> None:
    wrong: tuple[Any, ...] = (
        {"num_beams": 10**9},
        {"num_beams": "9"},
        {"workdir": "/etc"},
        {"max_length": 10**6},
        {"method": "consensus"},
        {"prompt": "\ud83d" * 30},
        {"temperature": -1},
        {"reward": "os"},
        {"bad_words": ["x"] * 999},
        [[]] * 9,
    )
    Client(port).ask(image, f"?settings={quote(json.dumps(random.choice(wrong)))}")


def _unusual(port: int, image: bytes) -> None:
    penalty = round(random.random(), 3)
    Client(port).ask(image, f'?settings={{"length_penalty":{penalty},"num_beams":2}}')


def _broken(broken: list[bytes]) -> Callable[[int, bytes], None]:
    def ask(port: int, image: bytes) -> None:
        content = bytearray(random.choice([image, *broken]))
        for _ in range(random.choice((0, 1, 20))):
            if content:
                content[random.randrange(len(content))] = random.randrange(256)
        cut = random.choice((len(content), len(content), random.randrange(len(content) + 1)))
        Client(port).ask(bytes(content[:cut]))

    return ask


def hostile(given: argparse.Namespace, files: list[str]) -> int:
    """Hostile clients beside two good ones; returns 1 where a good one had a wrong answer."""
    right, _, _ = command_captions(given.workdir, files, given.batch_size)
    flags = ("--batch_size", given.batch_size, "--seconds", given.limit)
    server = Served(given.workdir, *map(str, flags))
    server.wait_for("compiled for batches")
    broken = [file.read_bytes() for file in _files(given.cases)] if given.cases else []
    doing: list[Callable[[int, bytes], None]]
    doing = [_leaves, _slow, _silent, _no_http, _oversized, _malformed, _settings, _unusual]
    doing += [_broken(broken)] * 2
    end = time.monotonic() + given.seconds
    counts: Counter = Counter()
    times: list[float] = []

    def attack(do: Callable[[int, bytes], None]) -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                do(server.port, Path(random.choice(files)).read_bytes())
            counts[do.__name__] += 1
            time.sleep(0.02)

    def good() -> None:
        client = Client(server.port)
        while time.monotonic() < end:
            name = random.choice(files)
            began = time.monotonic()
            try:
                status, answer = client.ask(Path(name).read_bytes())
            except (OSError, http.client.HTTPException) as error:
                counts[f"good: {error!r}"] += 1
                client = Client(server.port)
                continue
            times.append(time.monotonic() - began)
            if status == 200:
                counts.update(differences({name: answer["results"][0]}, {name: right[name]}))
            else:
                counts[f"good: {status}"] += 1
                time.sleep(1)

    threads = [threading.Thread(target=attack, args=(do,), daemon=True) for do in doing]
    threads += [threading.Thread(target=good, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    while (left := end - time.monotonic()) > 0:
        memory = f"{server.memory_mib():.0f} MiB, {server.threads()} threads"
        print(f"{given.seconds - left:.0f} s: {memory}", flush=True)
        time.sleep(min(10, given.seconds / 8))
    for thread in threads[-2:]:
        thread.join(60)
    print(f"{dict(counts)}")
    waits = f"p50 {percentile(times, 0.5):.3f} s, p99 {percentile(times, 0.99):.3f} s"
    print(f"good: {waits}, longest {max(times):.3f} s")
    after, _, _ = served_captions(server.port, files[:20], 2)
    status, seconds = server.stop()
    last = differences(after, {name: right[name] for name in after})
    print(f"afterwards {last}; status {status} after {seconds:.2f} s")
    faults = [line for line in server.log().splitlines() if "Traceback" in line]
    print(f"{len(faults)} tracebacks in the log; {server.log().count(' 500 ')} answers of 500")
    return int(bool(counts["different"] or last["different"] or status or faults))


def _files(folder: str) -> Iterator[Path]:
    """The small files of a folder, which are images or something else."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.stat().st_size < 8 * 2**20:
            yield path


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long")
    parser.add_argument("--cases", help="folder of hostile images")
    parser.add_argument("--limit", type=int, default=30, help="the server's --seconds")
    given = parser.parse_args()
    return hostile(given, images_of(given))


if __name__ == "__main__":
    sys.exit(main())
