"""Load on `capjax serve`: latency, throughput, equal captions, and hostile clients.

    python -m benchmarks.serve_load --workdir RUN --images FOLDER [--first 500] [--clients 1 8 32]
    python -m benchmarks.serve_load --workdir RUN --images FOLDER --hostile 600 [--cases FOLDER]

The first form starts a server, and captions each image by so many clients at once, each of which
sends its next image when it has an answer; then by `capjax caption`, with the server's batch. It
prints the latency at p50 and p99, images a second, and how many captions differ from those of the
command, of which ties have log-probabilities within 1e-5. At the end SIGTERM comes under load.

The second form lets broken images, malformed and oversized requests, clients that leave, slow ones
and unusual settings go on for some seconds, beside clients who ask as one should. It prints the
server's memory over time, and ends with status 1 where a right request had a wrong answer.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

TIE = 1e-5


class Served:
    """A server's process, from its start to its end.

    Attributes:
      port: where it listens.
      ready_s: seconds from its start until it was ready.
    """

    def __init__(self, workdir: str, *flags: str):
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        command = [sys.executable, "-m", "capjax", "serve", workdir, "--port", "0", *flags]
        began = time.monotonic()
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        while not (found := re.search(r"http://.*:(\d+) is ready", self.log())):
            if self._process.poll() is not None:
                raise SystemExit(self.log())
            time.sleep(0.01)
        self.port, self.ready_s = int(found[1]), time.monotonic() - began

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def wait_for(self, text: str) -> None:
        while text not in self.log():
            time.sleep(0.1)

    def memory_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s*(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/task"))

    def stop(self) -> tuple[int, float]:
        """Sends SIGTERM; returns the exit status and the seconds until the end."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(120), time.monotonic() - began


class Client:
    """A client with a connection that stays open."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, body: bytes, query: str = "", headers: dict[str, str] | None = None) -> Any:
        """(status, JSON) of an image's bytes, or of another body."""
        self._connection.request("POST", f"/caption{query}", body, headers or {})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()


def command_captions(workdir: str, files: list[str], batch_size: int) -> tuple[dict, float]:
    """Captions of `capjax caption`, and its images a second from the first batch to the last."""
    command = [sys.executable, "-m", "capjax", "caption", "--workdir", workdir, "--json"]
    command += ["--batch_size", str(batch_size), "-"]
    rows, times = {}, []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        feed = threading.Thread(target=_feed, args=(process.stdin, files))
        feed.start()
        for line in process.stdout:
            row = json.loads(line)
            rows[row["image"]] = row
            times.append(time.monotonic())
        feed.join()
    # The first batches hold the compilation.
    skipped = 2 * batch_size
    if len(files) <= skipped:
        raise SystemExit(f"{len(files)} images are too few for batches of {batch_size}")
    return rows, (len(times) - skipped) / (times[-1] - times[skipped - 1])


def _feed(stream: Any, files: list[str]) -> None:
    with stream:
        stream.writelines(f"{file}\n" for file in files)


def served_captions(port: int, files: list[str], clients: int) -> tuple[dict, list[float], float]:
    """Captions by so many clients at once, the seconds of each, and images a second."""
    names, rows, times = iter(files), {}, []
    lock = threading.Lock()

    def work() -> None:
        client = Client(port)
        while True:
            with lock:
                if not (name := next(names, None)):
                    return client.close()
            content = Path(name).read_bytes()
            began = time.monotonic()
            status, answer = client.ask(content)
            times.append(time.monotonic() - began)
            if status != 200:
                raise SystemExit(f"{name}: {status} {answer}")
            rows[name] = answer["results"][0]

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        for each in [pool.submit(work) for _ in range(clients)]:
            each.result()
    return rows, times, len(files) / (time.monotonic() - began)


def differences(served: dict, command: dict) -> Counter:
    """How many captions are equal, are ties, or differ."""
    found: Counter = Counter()
    for name, row in command.items():
        other = served[name]
        if other["caption"] == row["caption"]:
            found["equal"] += 1
        elif abs(other["log_prob"] - row["log_prob"]) <= TIE:
            found["ties"] += 1
        else:
            found["different"] += 1
    return found


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(int(share * len(times)), len(times) - 1)]


def load(given: argparse.Namespace, files: list[str]) -> int:
    server = Served(given.workdir, *given.flags)
    began = time.monotonic()
    Client(server.port).ask(Path(files[0]).read_bytes())
    first = time.monotonic() - began
    print(f"ready after {server.ready_s:.2f} s, first caption {first:.2f} s later", flush=True)
    server.wait_for("compiled for batches")
    answers = {}
    for clients in given.clients:
        part = files if clients == max(given.clients) else files[: max(40, len(files) // 4)]
        rows, times, rate = served_captions(server.port, part, clients)
        print(
            f"{clients} clients: {rate:.2f} images/s, p50 {percentile(times, 0.5):.3f} s, "
            f"p99 {percentile(times, 0.99):.3f} s, {server.memory_mib():.0f} MiB",
            flush=True,
        )
        answers[clients] = rows
    lost = stop_under_load(server, files, max(given.clients))
    rows, rate = command_captions(given.workdir, files, given.batch_size)
    print(f"capjax caption, batches of {given.batch_size}: {rate:.2f} images/s")
    counts = differences(answers[max(given.clients)], rows)
    print(f"captions of {max(given.clients)} clients and of the command: {dict(counts)}")
    return int(bool(counts["different"] or lost))


def stop_under_load(server: Served, files: list[str], clients: int) -> int:
    """Sends SIGTERM while clients ask; returns how many requests got half an answer."""
    counts: Counter = Counter()
    content, stop = Path(files[0]).read_bytes(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                client = Client(server.port)
                status, _ = client.ask(content)
                counts[status] += 1
                client.close()
            except (ConnectionError, http.client.RemoteDisconnected):
                counts["refused"] += 1
                time.sleep(0.01)
            except (http.client.HTTPException, ValueError):
                counts["lost"] += 1

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    status, seconds = server.stop()
    stop.set()
    for thread in threads:
        thread.join()
    logged = len(re.findall(r"POST /caption 200", server.log()))
    print(
        f"SIGTERM under load: status {status} after {seconds:.2f} s; {dict(counts)}; log: {logged}"
    )
    return counts["lost"] + abs(status)


# Hostile clients: each function does one thing to a server, and is called again and again.


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
    server = Served(given.workdir, *given.flags)
    server.wait_for("compiled for batches")
    files = files[:20]
    right, _, _ = served_captions(server.port, files, 2)
    broken = [file.read_bytes() for file in _files(given.cases)] if given.cases else []
    doing: list[Callable[[int, bytes], None]]
    doing = [_leaves, _slow, _silent, _no_http, _oversized, _malformed, _settings, _unusual]
    doing += [_broken(broken)] * 2
    end = time.monotonic() + given.hostile
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
            same = status == 200 and answer["results"][0]["caption"] == right[name]["caption"]
            counts[f"good: {'right' if same else status}"] += 1
            if status == 200 and not same:
                counts["wrong"] += 1
            if status == 503:
                time.sleep(1)

    threads = [threading.Thread(target=attack, args=(do,), daemon=True) for do in doing]
    threads += [threading.Thread(target=good, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(min(10, given.hostile / 8))
        print(f"{server.memory_mib():.0f} MiB, {server.threads()} threads", flush=True)
    for thread in threads[-2:]:
        thread.join(60)
    print(f"{dict(counts)}")
    print(f"good: p50 {percentile(times, 0.5):.3f} s, p99 {percentile(times, 0.99):.3f} s")
    after, _, _ = served_captions(server.port, files, 2)
    status, seconds = server.stop()
    print(f"afterwards {differences(after, right)}; status {status} after {seconds:.2f} s")
    faults = [line for line in server.log().splitlines() if "Traceback" in line]
    print(f"{len(faults)} tracebacks in the log; {server.log().count(' 500 ')} answers of 500")
    return int(bool(counts["wrong"] or status or faults))


def _files(folder: str) -> Iterator[Path]:
    """The small files of a folder, which are images or something else."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.stat().st_size < 8 * 2**20:
            yield path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images", required=True, help="folder of JPEGs")
    parser.add_argument("--first", type=int, default=500, help="images of it")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--hostile", type=float, metavar="SECONDS")
    parser.add_argument("--cases", help="folder of hostile images")
    parser.add_argument("--seconds", type=int, default=30, help="the server's limit")
    given = parser.parse_args()
    given.flags = ["--batch_size", str(given.batch_size), "--seconds", str(given.seconds)]
    files = sorted(str(path) for path in Path(given.images).glob("*.jpg"))[: given.first]
    return hostile(given, files) if given.hostile else load(given, files)


if __name__ == "__main__":
    sys.exit(main())
