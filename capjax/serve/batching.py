"""Batches of the images of many requests, over a few compiled sizes.

One thread captions. Another one compiles, so that captions go on meanwhile: first the sizes of the
models' own settings, then what clients ask for. Images with the models' own settings wait in one
lane and all others in a second one, and batches are taken from both in turn, so that clients who
ask for unusual settings wait for each other.
"""

import collections
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from capjax.files.errors import ReportedError
from capjax.serve.served import Program, Served, is_own

_log = logging.getLogger("capjax.serve")


class BusyError(ReportedError):
    """The server can't take more now; a client may try again."""


@dataclasses.dataclass(eq=False)
class _Compiled:
    """A program of a model and the sizes of batches for which it is compiled.

    Attributes:
      served: the model.
      run: its program.
      method: one of the kind that the program is for.
      sizes: sizes that it may have.
      own: True for the model's own settings.
      ready: sizes that are compiled.
      asked: those and the ones that will be.
    """

    served: Served
    run: Program
    method: Hashable
    sizes: list[int]
    own: bool
    ready: set[int] = dataclasses.field(default_factory=set)
    asked: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(eq=False)
class _Job:
    """An image that waits for its caption."""

    program: _Compiled
    method: Hashable
    pixels: np.ndarray
    index: int
    future: Future


class Batcher:
    """Captions images of models in batches."""

    def __init__(
        self,
        models: Sequence[Served],
        *,
        batch_size: int,
        kept: int,
        usual: Callable[[Served], Sequence[Mapping[str, Any]]] = lambda served: (),
        warm: Callable[[], None] = lambda: None,
    ):
        """Compiles each model's own settings for its smallest batch; the rest comes later.

        Args:
          models: the models.
          batch_size: most images at once.
          kept: programs of other settings that are kept; the one that was not used for the longest
            time is dropped for a new one.
          usual: settings of a model that clients often ask for: of one image each, they are
            compiled before anybody does.
          warm: is called once these and all sizes of the models' own settings are compiled.
        """
        self._batch_size, self._kept, self._warm = batch_size, kept, warm
        self._changed = threading.Condition()
        self._lanes: dict[bool, collections.deque[_Job]] = {
            own: collections.deque() for own in (True, False)
        }
        self._turn, self._stopped = True, False
        self._programs: collections.OrderedDict[Hashable, _Compiled] = collections.OrderedDict()
        self._coming: queue.SimpleQueue[tuple[_Compiled, int] | None] = queue.SimpleQueue()
        own = [self._program(served, served.method({}), False) for served in models]
        for program in own:
            self._compile(program, program.sizes[0])
        for served in models:
            if served.attends:
                self._ask(self._program(served, served.method({}), True), 1)
            for settings in usual(served)[:kept]:
                self._ask(self._program(served, served.method(settings), False), 1)
        for program in own:
            for size in reversed(program.sizes[1:]):  # The largest is needed most under load.
                self._ask(program, size)
        self._coming.put(None)
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._work, self._prepare)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        served: Served,
        method: Hashable,
        attention: bool,
        images: Sequence[tuple[np.ndarray, int]],
    ) -> list[Future]:
        """Futures of the captions of images: pixels, and the index that a sample depends on.

        A future that is cancelled costs nothing more, unless its batch has begun.

        Raises:
          BusyError: all programs of other settings than the models' own are in use.
        """
        with self._changed:
            program = self._program(served, method, attention)
            jobs = [_Job(program, method, *image, Future()) for image in images]
            lane = self._lanes[program.own]
            lane.extend(jobs)
            if not program.ready:
                self._ask(program, len(jobs))
            self._changed.notify_all()
        return [job.future for job in jobs]

    def close(self) -> None:
        """Stops; what waits is not captioned."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._coming.put(None)
        self._threads[0].join()

    def _program(self, served: Served, method: Hashable, attention: bool) -> _Compiled:
        key = served.name, served.kind(method), attention
        if found := self._programs.get(key):
            self._programs.move_to_end(key)
            return found
        own = is_own(served, method)
        if not own:
            self._make_room()
        sizes = served.sizes(self._batch_size)
        found = _Compiled(served, served.program(attention=attention), method, sizes, own)
        self._programs[key] = found
        return found

    def _make_room(self) -> None:
        """Drops the program of other settings that was not used for the longest time."""
        others = [key for key, program in self._programs.items() if not program.own]
        if len(others) < self._kept:
            return
        waiting = {job.program for job in self._lanes[False] if not job.future.cancelled()}
        idle = [key for key in others if self._programs[key] not in waiting]
        if not idle:
            raise BusyError(
                f"{self._kept} other settings are in use: try again, or with the model's own"
            )
        del self._programs[idle[0]]

    # The thread that compiles.

    def _ask(self, program: _Compiled, count: int) -> None:
        """Has the best size for a number of images compiled."""
        size = _best(program.sizes, count)
        if size not in program.asked:
            program.asked.add(size)
            self._coming.put((program, size))

    def _prepare(self) -> None:
        warm = False
        while True:
            coming = self._coming.get()
            if self._stopped:
                return
            if coming is None:
                warm = True
                self._warm()
                continue
            program, size = coming
            with self._changed:
                waiting = (job.program for job in self._waiting(False))
                if warm and not program.own and program not in waiting:  # Nobody waits any more.
                    program.asked.discard(size)
                    continue
            began = time.monotonic()
            try:
                self._compile(program, size)
            except Exception as error:
                self._fail(program, size, error)
            if warm:  # At most half of the time goes into compiling what clients ask for.
                time.sleep(time.monotonic() - began)

    def _compile(self, program: _Compiled, size: int) -> None:
        pixels = np.zeros((size, *program.served.shape), np.uint8)
        program.run(program.method, pixels, np.full(size, -1, np.int32))
        with self._changed:
            program.asked.add(size)
            program.ready.add(size)
            self._changed.notify_all()

    def _fail(self, program: _Compiled, size: int, error: Exception) -> None:
        """Goes on with what is compiled; if that is nothing, who waits for it has the error."""
        _log.warning("batches of %d can't be compiled: %s", size, str(error).split("\n")[0])
        with self._changed:
            if program.ready:
                return
            failed = [job for job in self._waiting(program.own) if job.program is program]
            for key in [key for key, other in self._programs.items() if other is program]:
                del self._programs[key]
            self._remove(failed)
        for job in failed:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)

    # The thread that captions.

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._first())
                if self._stopped:
                    return
                program, size, jobs = self._take()
            if jobs:
                self._caption(program, size, jobs)

    def _waiting(self, own: bool) -> list[_Job]:
        """The jobs of a lane; those that were cancelled leave it."""
        lane = self._lanes[own]
        if any(job.future.cancelled() for job in lane):
            live = [job for job in lane if not job.future.cancelled()]
            lane.clear()
            lane.extend(live)
        return list(lane)

    def _first(self) -> _Job | None:
        """The job that is next: the oldest one, of the lanes in turn."""
        for own in (self._turn, not self._turn):
            for job in self._waiting(own):
                if job.program.ready:
                    return job
        return None

    def _take(self) -> tuple[_Compiled, int, list[_Job]]:
        """The next batch: its program, its size and its jobs."""
        first = self._first()
        assert first
        program = first.program
        self._turn = not program.own
        jobs = [
            job
            for job in self._waiting(program.own)
            if job.program is program and job.method == first.method
        ]
        self._ask(program, len(jobs))
        size = _best(sorted(program.ready), len(jobs))
        jobs = jobs[:size]
        self._remove(jobs)
        return program, size, [job for job in jobs if job.future.set_running_or_notify_cancel()]

    def _remove(self, jobs: list[_Job]) -> None:
        gone = set(jobs)
        for own, lane in self._lanes.items():
            self._lanes[own] = collections.deque(job for job in lane if job not in gone)

    def _caption(self, program: _Compiled, size: int, jobs: list[_Job]) -> None:
        pixels = np.zeros((size, *program.served.shape), np.uint8)
        index = np.full(size, -1, np.int32)
        for row, job in enumerate(jobs):
            pixels[row], index[row] = job.pixels, job.index
        try:
            found = program.run(jobs[0].method, pixels, index)
        except Exception as error:
            _log.exception("a batch of %d images has no captions", len(jobs))
            found = [error] * len(jobs)
        for job, caption in zip(jobs, found, strict=True):
            if isinstance(caption, Exception):
                job.future.set_exception(caption)
            else:
                job.future.set_result(caption)


def _best(sizes: Sequence[int], count: int) -> int:
    """The largest of sizes that `count` images fill to three quarters, or the smallest."""
    return max((size for size in sizes if 4 * count >= 3 * size), default=min(sizes))
