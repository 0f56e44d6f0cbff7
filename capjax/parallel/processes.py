"""Several processes that train or evaluate one run together, by `jax.distributed`.

Each process runs the same program on devices of its own. What they compute together is
`parallel`'s matter; here is what they agree on: who writes, what the first one found out, and that
an error of one ends all. With one process all of this does nothing.

The processes talk through the key-value store of JAX's coordination service, which lives in the
first process, waits without a limit and needs no device. Its client has no public name, so that it
is taken from where orbax takes it, too.
"""

import contextlib
import itertools
import json
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

# Seconds without a sign of life after which a process counts as dead: JAX's own default.
TIMEOUT = 100

# Seconds that a process has to end by itself after another's error, which may be its own, too.
GRACE = 10

# Seconds for which the first process, and with it the service, outlives the others after an error.
_LINGER = 3

# JAX waits so many seconds for all processes to come up; a cluster's queue may be slow.
_START_SECONDS = 300

# Waiting has no limit: who waits in vain is ended by the error that he waits for.
_LONG_MILLISECONDS = 30 * 86400 * 1000
_FAILED, _LEFT, _DONE = "capjax/failed", "capjax/left", "capjax/done"

# Every process asks the same questions in the same order, so that their numbers are names.
_numbers = itertools.count()


class ProcessesError(ReportedError, ValueError):
    """Processes that can't work together; the message says what would."""


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    automatic: bool = False,
    timeout: int = TIMEOUT,
) -> None:
    """Joins the other processes of a run; comes before anything that asks for devices.

    Without arguments there is one process. Others than the first print nothing from here on: their
    standard output goes nowhere, and errors go to stderr.

    Args:
      coordinator: "host:port" of the first process, where it opens the port.
      num_processes: of the run.
      process_id: this one, from 0 for the first.
      automatic: JAX finds the three, from SLURM, Open MPI, Kubernetes or the TPU's metadata.
      timeout: seconds without a sign of life after which a process counts as dead.

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
            f"--distributed finds out by itself what {' and '.join(there)} would say: give one or "
            "the other"
        )
    if timeout < 1:
        raise ProcessesError(f"--process_timeout={timeout} must be 1 second or more")
    if not automatic:
        if coordinator is None or num_processes is None or process_id is None:
            raise ProcessesError(
                "--coordinator, --num_processes and --process_id go together: "
                f"{' and '.join(missing)} is missing"
            )
        _check(coordinator, num_processes, process_id)
    # It takes SIGTERM, and `asked_to_stop` starts it once there is something to save.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            # What is said is not to be mixed with what a cluster says.
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


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    """Raises ProcessesError for values out of range, and where nobody answers at the address."""
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
    if process_id:
        _await_answer(coordinator, host.strip("[]"), int(port))


def _await_answer(coordinator: str, host: str, port: int) -> None:
    # JAX itself would end the process with a stack trace.
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ProcessesError(
                    f"no first process answers at --coordinator={coordinator}: {error}"
                ) from error
        time.sleep(0.2)


def count() -> int:
    """Processes of the run."""
    return global_state.num_processes


def index() -> int:
    """Which of them this is; 0 is the first, which alone writes and prints."""
    return global_state.process_id


def is_primary() -> bool:
    """Whether this process writes and prints."""
    return index() == 0


def broadcast_from_primary(compute: Callable[[], Any]) -> Any:
    """What `compute` gives in the first process, for all of them; the others wait.

    The value goes through JSON in every process, which keeps floats to the last bit.
    """
    if count() == 1:
        return compute()
    key = f"capjax/{next(_numbers)}"
    if is_primary():
        _client().key_value_set(key, json.dumps(compute()))
    return json.loads(_wait_for(key))


@contextlib.contextmanager
def primary_first() -> Iterator[None]:
    """Runs its body in the first process, and then in the others at the same time.

    For what is made once and kept on disk: where the others see the same disk they find it there,
    and where they do not they make their own.
    """
    key = f"capjax/{next(_numbers)}"
    if count() > 1 and not is_primary():
        _wait_for(key)
    yield
    if count() > 1 and is_primary():
        _client().key_value_set(key, "")


def check_equal(what: str, compute: Callable[[], Any]) -> None:
    """Raises ProcessesError where what `compute` gives, JSON, is not the first process's."""
    if count() == 1:
        return
    value = compute()
    if json.loads(json.dumps(value)) != broadcast_from_primary(lambda: value):
        raise ProcessesError(
            f"process {index()} has other {what} than the first process: start all with the same "
            "command, on the same files"
        )


def asked_to_stop(step: int) -> bool:
    """Whether the run is to stop after this step, because a process was sent SIGTERM.

    True at the same step in all processes, which is one that none of them has passed; to be asked
    after every step, and from the first time on SIGTERM does nothing else. With one process it is
    False: then the signal is the caller's own matter.
    """
    if count() == 1:
        return False
    if global_state.preemption_sync_manager is None:
        jax.config.update("jax_enable_preemption_service", True)
        global_state.initialize_preemption_sync_manager()
    return multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def propagate_errors() -> Iterator[None]:
    """Around all that a process does after `start`: an error of one ends all.

    The others learn of it within seconds, say so on stderr and leave with status 1, whatever they
    wait for. A process that dies without a word is found out by its silence (`start`'s timeout), or
    before that by a broken connection. Leaving with a number as status, or at the end, waits for
    the other processes to do the same.
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
        # Before JAX's own barrier at the exit, which does not wait long.
        _client().wait_at_barrier(_DONE, _LONG_MILLISECONDS)
        ending.set()
        if is_primary():
            _client().key_value_set(_FAILED, "")  # Lets the watches go.
        watch.join()


def _client() -> Any:
    """What speaks to the other processes; there is one from `start` on."""
    return global_state.client


def _wait_for(key: str) -> str:
    return _client().blocking_key_value_get(key, _LONG_MILLISECONDS)


def _fail(error: BaseException) -> None:
    """Prints an error, tells the others, and ends this process when they have ended."""
    if isinstance(error, SystemExit):
        message = str(error.code).removeprefix("error: ")
        print(error.code, file=sys.stderr)
    else:
        message = "".join(traceback.format_exception_only(error)).strip()
        traceback.print_exception(error)
    with contextlib.suppress(RuntimeError):  # Another process was faster.
        _client().key_value_set(_FAILED, f"process {index()}: {message}")
    _leave()


def _watch(ending: threading.Event) -> None:
    """Ends this process after another one's error."""
    try:
        message = _wait_for(_FAILED)
    except RuntimeError:  # The service ends with the run.
        return
    if not ending.wait(GRACE):
        print(f"error: stopped, because of an error in {message}", file=sys.stderr)
        _leave()


def _leave() -> None:
    # All stay connected until all know: a connection that breaks ends the others with JAX's own
    # message and a stack trace. Python's way out would wait for them once more.
    with contextlib.suppress(RuntimeError):
        _client().wait_at_barrier(_LEFT, 1000 * (GRACE + 5))
        # The service ends with the first: who is not gone by then dies of SIGABRT.
        time.sleep(_LINGER if is_primary() else 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
