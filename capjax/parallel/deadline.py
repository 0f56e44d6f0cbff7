"""A process that was asked to end does so in time, even while it compiles."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

# Kubernetes, SLURM and Docker kill after 10 seconds or more.
SECONDS = 8


@contextlib.contextmanager
def deadline(end: Callable[[int], None], seconds: float = SECONDS) -> Iterator[None]:
    """Calls `end(number)` from a thread if the body still runs some time after a signal.

    Only for signals that have a handler of Python. That handler runs when the main thread returns
    to Python: not during a compilation, which can take minutes. In other threads than the main
    one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    left = threading.Event()

    def watch() -> None:
        # The number of each signal; nothing once the body has ended.
        while number := os.read(reading, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT) and not left.wait(seconds):
                end(number[0])

    thread = threading.Thread(target=watch, daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        thread.start()
        yield
    finally:
        signal.set_wakeup_fd(before)
        left.set()
        os.close(writing)
        if thread.ident:
            thread.join()
        os.close(reading)
