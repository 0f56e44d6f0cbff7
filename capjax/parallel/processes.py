"""Coordination of the processes of one run, by `jax.distributed`.

Each process runs the same program on its own devices. `devices` holds the computation; this file
decides which process writes, broadcasts its results, and ends all processes after an error of one.
With one process these functions do nothing.

Processes communicate by the key-value store of JAX's coordination service, which runs in the first
process, can wait without a timeout and needs no device. JAX 0.7 to 0.10 have no public name for its
client, nor for the process index without starting a backend, hence the private `global_state`,
which orbax uses, too.
"""

import contextlib
import itertools
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

from capjax.files.errors import ReportedError
from capjax.parallel import lobby
from capjax.parallel.defaults import TIMEOUT

_logger = logging.getLogger(__name__)

# Seconds for a process to end by its own error after another process failed.
GRACE = 10

# Seconds that the first process, which runs the service, outlives the others after an error.
_LINGER = 3

# Seconds to wait for all processes to start; a cluster can start them late.
_START_SECONDS = 300

# In effect no timeout: a process that waits in vain is ended by `_watch`.
_LONG_MILLISECONDS = 30 * 86400 * 1000
_FAILED, _LEFT, _DONE = "capjax/failed", "capjax/left", "capjax/done"

_DEATH = (
    "error: another process of the run may have died, or can't be reached: start all again, and "
    "they continue from the last checkpoint; what JAX says of it follows"
)

# In errors of a transfer to a process that died: on CPUs, on GPUs, and of JAX's service.
_TRANSPORTS = ("Gloo", "NCCL", "coordination service")

# All processes make the same calls in the same order, so a counter gives them equal keys.
_numbers = itertools.count()


class ProcessesError(ReportedError, ValueError):
    """Processes can't work together; the message gives a remedy."""


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    automatic: bool = False,
    timeout: int = TIMEOUT,
) -> None:
    """Joins the other processes of a run. Must be called before any device is used.

    Without arguments the run has one process. Processes other than the first lose their standard
    output; their errors go to stderr.

    Args:
      coordinator: "host:port" of the first process, which opens the port.
      num_processes: number of processes of the run.
      process_id: index of this process, from 0.
      automatic: JAX detects these three from SLURM, Open MPI, Kubernetes or the TPU metadata.
      timeout: seconds without a heartbeat after which a process counts as dead.

    Raises:
      ProcessesError: arguments are missing or contradict each other, or the first process can't be
        reached.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if not automatic and len(missing) == 3:
        return
    if automatic and len(missing) < 3:
        there = [f"--{name}" for name, value in given.items() if value is not None]
        raise ProcessesError(
            f"--distributed detects {' and '.join(there)} by itself: give one or the other"
        )
    if timeout < 1:
        raise ProcessesError(f"--process_timeout={timeout} must be 1 second or more")
    if not automatic:
        if coordinator is None or num_processes is None or process_id is None:
            raise ProcessesError(
                "--coordinator, --num_processes and --process_id go together: "
                f"{' and '.join(missing)} is missing"
            )
        host, port = _check(coordinator, num_processes, process_id)
        _meet(coordinator, host, port, num_processes, process_id, max(_START_SECONDS, timeout))
    # The service catches SIGTERM; `asked_to_stop` starts it once there is something to save.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            # Given values must not be mixed with those of a detected cluster.
            cluster_detection_method=None if automatic else "deactivate",
            initialization_timeout=max(_START_SECONDS, timeout),
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=timeout,
        )
    except (RuntimeError, ValueError) as error:
        if automatic:
            raise ProcessesError(
                f"--distributed found no cluster that JAX knows ({error}): give --coordinator "
                "HOST:PORT, --num_processes N and --process_id I to each process"
            ) from error
        raise ProcessesError(f"--coordinator={coordinator} can't be used: {error}") from error
    if not is_primary():
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _check(coordinator: str, num_processes: int, process_id: int) -> tuple[str, int]:
    """The coordinator's host and port; raises ProcessesError for values out of range."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ProcessesError(f"--coordinator={coordinator} must be HOST:PORT, such as node1:9876")
    if num_processes < 1:
        raise ProcessesError(f"--num_processes={num_processes} must be 1 or more")
    if not 0 <= process_id < num_processes:
        raise ProcessesError(
            f"--process_id={process_id} must lie in 0 to {num_processes - 1}, for "
            f"--num_processes={num_processes}"
        )
    return host.strip("[]"), int(port)


def _meet(coordinator: str, host: str, port: int, count: int, number: int, seconds: float) -> None:
    """Waits until all processes are there; raises ProcessesError if they don't fit together."""
    try:
        if number == 0:
            lobby.receive(port, count, seconds)
            return
        lobby.enter(host, port, count, number, seconds)
        _await_service(host, port)
    except lobby.LobbyError as error:
        raise ProcessesError(f"--coordinator={coordinator}: {error}") from error
    except OSError as error:
        raise ProcessesError(
            f"--coordinator={coordinator}: port {port} can't be used ({error.strerror or error}): "
            "give another one"
        ) from error


def _await_service(host: str, port: int) -> None:
    # Without an answer JAX would end the process with a stack trace.
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=10).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


def count() -> int:
    """Number of processes of the run."""
    return global_state.num_processes


def index() -> int:
    """Index of this process; only the first, 0, writes and prints."""
    return global_state.process_id


def is_primary() -> bool:
    """True in the first process, which writes and prints."""
    return index() == 0


def broadcast_from_primary(compute: Callable[[], Any]) -> Any:
    """Calls `compute` in the first process and returns its value in all; the others wait.

    With several processes the value passes through JSON in each, which keeps floats exactly.
    """
    if count() == 1:
        return compute()
    key = f"capjax/{next(_numbers)}"
    if is_primary():
        _client().key_value_set(key, json.dumps(compute()))
    return json.loads(_wait_for(key))


@contextlib.contextmanager
def primary_first() -> Iterator[None]:
    """Runs the body in the first process, then in all others concurrently.

    For files that are created once: processes on a shared disk find them, and others create their
    own.
    """
    key = f"capjax/{next(_numbers)}"
    if count() > 1 and not is_primary():
        _wait_for(key)
    yield
    if count() > 1 and is_primary():
        _client().key_value_set(key, "")


def check_equal(what: str, compute: Callable[[], Any]) -> None:
    """Raises ProcessesError if the JSON value of `compute` differs from the first process."""
    if count() == 1:
        return
    value = compute()
    if json.loads(json.dumps(value)) != broadcast_from_primary(lambda: value):
        raise ProcessesError(
            f"process {index()} and the first process differ in {what}: start all with the same "
            "command, on the same files"
        )


def asked_to_stop(step: int) -> bool:
    """True if the run must stop after this step because a process received SIGTERM.

    All processes must call it after every step; it becomes True at the same step in all of them.
    From the first call on, SIGTERM has no other effect. With one process it is always False, and
    the caller handles the signal.
    """
    if count() == 1:
        return False
    if global_state.preemption_sync_manager is None:
        jax.config.update("jax_enable_preemption_service", True)
        global_state.initialize_preemption_sync_manager()
    return multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def propagate_errors() -> Iterator[None]:
    """Ends all processes after an error of one; must enclose all that a process does after `start`.

    Within seconds the others report the error on stderr and exit with status 1, even if they are
    waiting. A killed process is detected by a broken connection or the timeout of `start`. A
    process that exits with a numeric status, or completes, waits for the others.
    """
    if count() == 1:
        yield
        return
    ending = threading.Event()
    watch = threading.Thread(target=_watch, args=(ending,), daemon=True)
    watch.start()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit) or isinstance(error.code, str):
            ending.set()
            _fail(error)
        raise
    finally:
        # Before JAX's barrier at exit, which has a short timeout.
        _client().wait_at_barrier(_DONE, _LONG_MILLISECONDS)
        ending.set()
        if is_primary():
            _client().key_value_set(_FAILED, "")  # Ends the watches.
        watch.join()


def _client() -> Any:
    """What speaks to the other processes; there is one from `start` on."""
    return global_state.client


def _wait_for(key: str) -> str:
    return _client().blocking_key_value_get(key, _LONG_MILLISECONDS)


def _fail(error: BaseException) -> None:
    """Logs an error, tells the other processes, and ends this one."""
    if isinstance(error, SystemExit):
        message = str(error.code).removeprefix("error: ")
        _logger.error(error.code)
    else:
        message = "".join(traceback.format_exception_only(error)).strip()
        if any(name in message for name in _TRANSPORTS):
            _logger.error(_DEATH)
        traceback.print_exception(error)
    with contextlib.suppress(RuntimeError):  # Another process failed first.
        _client().key_value_set(_FAILED, f"process {index()}: {message}")
    _leave()


def _watch(ending: threading.Event) -> None:
    """Ends this process after an error of another."""
    try:
        message = _wait_for(_FAILED)
    except RuntimeError:  # The service ends with the run, or before it.
        if not ending.wait(1):
            _logger.error(_DEATH)
        return
    if not ending.wait(GRACE):
        _logger.error("error: stopped because of an error in %s", message)
        _leave()


def _leave() -> None:
    # All stay connected until all know: a broken connection would end the others with a stack
    # trace of JAX. A normal exit of Python would wait for them once more.
    with contextlib.suppress(RuntimeError):
        _client().wait_at_barrier(_LEFT, 1000 * (GRACE + 5))
        # The service ends with the first process; processes still running then die of SIGABRT.
        time.sleep(_LINGER if is_primary() else 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
