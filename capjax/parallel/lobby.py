"""Where the processes of a run meet before JAX connects them.

JAX's service takes whoever comes: with different numbers of processes all wait in vain, and a
second process of one number ends the run. So the first process listens at the coordinator's port
itself until all are there. Each other process tells it how it was started, and is told to go on, or
why not. A process that comes later meets JAX's service, which does not answer, and leaves.
"""

import contextlib
import json
import selectors
import socket
import time
from typing import Any

from capjax.files.errors import ReportedError

# For an answer; and to ask again whether the service of a run that has just ended is gone.
_SECONDS = 5
_LONGEST_LINE = 4096


class LobbyError(ReportedError):
    """The processes can't start together; the message says why."""


def receive(port: int, count: int, seconds: float) -> None:
    """Waits at `port` until the other processes of a run are there.

    Args:
      port: of this machine.
      count: number of processes, with this one.
      seconds: to wait.

    Raises:
      LobbyError: a process was started with another number of processes, or some did not come.
      OSError: the port can't be used.
    """
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(port))
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(server, selectors.EVENT_READ)
        there: dict[int, socket.socket] = {}
        while len(there) < count - 1:
            left = end - time.monotonic()
            if left <= 0:
                missing = sorted({*range(1, count)} - there.keys())
                raise LobbyError(f"processes {missing} of {count} did not come in {seconds:g} s")
            for key, _ in selector.select(left):
                if key.fileobj is server:
                    guest = stack.enter_context(server.accept()[0])
                    if (number := _greet(guest, count, there)) is not None:
                        there[number] = guest
                        selector.register(guest, selectors.EVENT_READ, number)
                else:  # It left, and another may come in its place.
                    selector.unregister(key.fileobj)
                    del there[key.data]
        for guest in there.values():
            _send(guest, {"go": True})
        for guest in there.values():
            # They close first: otherwise the port would stay taken for a while.
            with contextlib.suppress(OSError):
                guest.recv(1)


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # A machine without IPv6.
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _greet(guest: socket.socket, count: int, there: dict[int, socket.socket]) -> int | None:
    """Returns the number of a process that has come; None for one that is sent away."""
    asked = _read(guest)
    number, theirs = asked.get("process_id"), asked.get("num_processes")
    if type(number) is not int or type(theirs) is not int:  # Another program.
        return None
    if theirs != count:
        text = (
            f"process {number} has --num_processes={theirs}, and the first process has "
            f"--num_processes={count}: start all with the same number"
        )
        for one in (guest, *there.values()):
            _send(one, {"error": text})
        raise LobbyError(text)
    if number in there:
        _send(guest, {"error": f"another process has --process_id={number}: give each its own"})
        return None
    _send(guest, {"welcome": True})
    return number


def enter(host: str, port: int, count: int, number: int, seconds: float) -> None:
    """Waits until all processes of a run are with the first one, at `host` and `port`.

    Args:
      host: of the first process.
      port: of that host.
      count: number of processes.
      number: of this process.
      seconds: to wait.

    Raises:
      LobbyError: the first process does not answer or sends this one away.
    """
    began = time.monotonic()
    while True:
        refused: Exception | None = None
        try:
            with socket.create_connection((host, port), timeout=_SECONDS) as first:
                _send(first, {"process_id": number, "num_processes": count})
                answer = _read(first)
                if answer.get("welcome"):
                    first.settimeout(seconds)
                    answer = _read(first)
                    if not answer:
                        raise LobbyError("the first process ended while it waited for others")
        except OSError as error:
            refused, answer = error, {}
        if answer.get("go"):
            return
        if "error" in answer:
            raise LobbyError(str(answer["error"]))
        if time.monotonic() - began > (seconds if refused else _SECONDS):
            raise LobbyError(
                f"no first process answers: {refused}"
                if refused
                else "a run has begun there already, or it is another program's port: give "
                "another port, or wait for that run"
            )
        time.sleep(0.2)


def _send(other: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # It has left.
        other.sendall(json.dumps(message).encode() + b"\n")


def _read(other: socket.socket) -> dict[str, Any]:
    """Reads one message; an empty one from another program, or if nothing comes."""
    if other.gettimeout() is None:
        other.settimeout(_SECONDS)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
            if not (byte := other.recv(1)):
                return {}
            line += byte
        message = json.loads(line)
    except (OSError, ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
