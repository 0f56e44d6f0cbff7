"""A trace of some steps of a training, by jax.profiler."""

import logging
from typing import Any

import jax

_logger = logging.getLogger(__name__)

# Steps before the trace, which compile.
_WARM = 10


class Profiler:
    """Traces steps of a training into a folder."""

    def __init__(self, folder: str, steps: int):
        """Traces `steps` steps after the first ten of this start; none if 0."""
        self._folder, self._steps = folder, steps
        self._seen = 0

    def before(self) -> None:
        """Begins the trace, if it is due at the next step."""
        if self._steps and self._seen == _WARM:
            jax.profiler.start_trace(self._folder)
        self._seen += 1

    def after(self, state: Any) -> None:
        """Ends the trace after its last step, which gave `state`."""
        if self._steps and self._seen == _WARM + self._steps:
            self.close(state)

    def close(self, state: Any) -> None:
        """Ends a trace that is not ended."""
        if self._steps and self._seen > _WARM:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            _logger.info("wrote a trace of steps to %s; xprof or Perfetto shows it", self._folder)
            self._steps = 0
