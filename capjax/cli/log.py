"""Shows the library's log as the output of a command."""

import logging
import sys

from tqdm import tqdm

from capjax.cli.errors import unread


def show_log() -> None:
    """Prints the library's messages to stdout, and its warnings and errors to stderr.

    Every command calls it once; used as a library, capjax leaves its log to the program. The logs
    of other libraries are not shown.
    """
    logger = logging.getLogger("capjax")
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Console(logging.Handler):
    """Prints each message as it is, without its level or time."""

    def emit(self, record: logging.LogRecord) -> None:
        # Looked up at each message, since tests replace the streams.
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with tqdm.external_write_mode(file=stream):
            try:
                print(self.format(record), file=stream, flush=True)
            except BrokenPipeError:
                unread(stream)  # A run goes on without its reader. Other errors are raised.
