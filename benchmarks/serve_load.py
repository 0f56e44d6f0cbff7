"""Load on `capjax serve`: latency, throughput and equal captions.

    python -m benchmarks.serve_load --workdir RUN --images FOLDER [--first 500] [--clients 1 8 32]

Starts a server, and captions each image by so many clients at once, each of which sends its next
image when it has an answer; then by `capjax caption`, with the server's batch. Prints the latency
at p50 and p99, images a second, CPU an image, and how many captions differ from those of the
command, of which ties have log-probabilities within 1e-5. At the end SIGTERM comes under load.
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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

    def cpu_s(self) -> float:
        return cpu_seconds(self._process.pid)

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/task"))

    def stop(self) -> tuple[int, float]:
        """Sends SIGTERM; returns the exit status and the seconds until the end."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(120), time.monotonic() - began


def cpu_seconds(pid: int) -> float:
    """What a process has taken of all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def command_captions(workdir: str, files: list[str], batch_size: int) -> tuple[dict, float, float]:
    """Captions of `capjax caption`, its images a second and its CPU seconds an image.

    Both are from the second batch to the last: the first ones hold the compilation.
    """
    skipped = 2 * batch_size
    if len(files) <= skipped:
        raise SystemExit(f"{len(files)} images are too few for batches of {batch_size}")
    command = [sys.executable, "-m", "capjax", "caption", "--workdir", workdir, "--json"]
    command += ["--batch_size", str(batch_size), "-"]
    rows, times, cpu = {}, [], []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        feed = threading.Thread(target=_feed, args=(process.stdin, files))
        feed.start()
        for line in process.stdout:
            row = json.loads(line)
            rows[row["image"]] = row
            times.append(time.monotonic())
            if len(times) in (skipped, len(files)):
                cpu.append(cpu_seconds(process.pid))
        feed.join()
    count = len(times) - skipped
    return rows, count / (times[-1] - times[skipped - 1]), (cpu[1] - cpu[0]) / count


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
    server = Served(given.workdir, "--batch_size", str(given.batch_size))
    began = time.monotonic()
    Client(server.port).ask(Path(files[0]).read_bytes())
    first = time.monotonic() - began
    print(
        f"ready after {server.ready_s:.2f} s, first caption after {server.ready_s + first:.2f} s, "
        f"{server.cpu_s():.2f} s of CPU",
        flush=True,
    )
    server.wait_for("compiled for batches")
    answers, answered = {}, 1
    for clients in given.clients:
        part = files if clients == max(given.clients) else files[: max(40, len(files) // 4)]
        before = server.cpu_s(), time.process_time()
        rows, times, rate = served_captions(server.port, part, clients)
        taken = server.cpu_s() - before[0], time.process_time() - before[1]
        server_ms, client_ms = (1000 * seconds / len(part) for seconds in taken)
        print(
            f"{clients} clients: {rate:.2f} images/s, p50 {percentile(times, 0.5):.3f} s, "
            f"p99 {percentile(times, 0.99):.3f} s, {server.memory_mib():.0f} MiB; CPU an image: "
            f"server {server_ms:.1f} ms, clients {client_ms:.1f} ms",
            flush=True,
        )
        answers[clients] = rows
        answered += len(part)
    lost = stop_under_load(server, files, max(given.clients), answered)
    rows, rate, cpu_s = command_captions(given.workdir, files, given.batch_size)
    print(
        f"capjax caption, batches of {given.batch_size}: {rate:.2f} images/s; CPU an image: "
        f"{1000 * cpu_s:.1f} ms"
    )
    counts = differences(answers[max(given.clients)], rows)
    print(f"captions of {max(given.clients)} clients and of the command: {dict(counts)}")
    return int(bool(counts["different"] or lost))


# A line of the server's log: the status, and where the request was read the number of its images.
_ANSWER = re.compile(r"POST /caption (\d+) \S+ s( \d+ images)?")


def stop_under_load(server: Served, files: list[str], clients: int, answered: int) -> int:
    """Sends SIGTERM while clients ask; returns how many requests were taken and have no answer.

    A request is taken once the server has read it, which its log tells. `answered` were before.
    """
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
    log = Counter(
        f"{code}{', read' if read else ''}" for code, read in _ANSWER.findall(server.log())
    )
    log["200, read"] -= answered
    unanswered = sum(count for what, count in log.items() if what not in ("200, read", "503"))
    lost = counts["lost"] + unanswered + log["200, read"] - counts[200]
    print(
        f"SIGTERM under load: status {status} after {seconds:.2f} s; clients {dict(counts)}; "
        f"log {dict(log)}; {lost} lost"
    )
    return lost + abs(status)


def arguments(about: str) -> argparse.ArgumentParser:
    """The options of both benchmarks of the server."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images", required=True, help="folder of JPEGs")
    parser.add_argument("--first", type=int, default=500, help="images of it")
    parser.add_argument("--batch_size", type=int, default=16)
    return parser


def images_of(given: argparse.Namespace) -> list[str]:
    """The first images of the folder."""
    return sorted(str(path) for path in Path(given.images).glob("*.jpg"))[: given.first]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    given = parser.parse_args()
    return load(given, images_of(given))


if __name__ == "__main__":
    sys.exit(main())
