"""METEOR 1.5 by the Java process of pycocoevalcap, which reads its tables for ten seconds."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from typing import Any

from pycocoevalcap.meteor.meteor import Meteor

_SECONDS = 1800.0  # 5,000 images take about a minute; a longer run hangs

_kept: Any = None


@cache
def why_not() -> str | None:
    """The reason why METEOR cannot run, for the beginning of an error text; None if it can."""
    try:
        # Finding `java` is not enough: that of macOS is a stub that asks to install Java.
        subprocess.run(["java", "-version"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"METEOR needs a `java` that runs ({type(error).__name__})"
    return None


@contextlib.contextmanager
def started(wanted: bool = True) -> Iterator[None]:
    """Starts the process now, for every `score` inside, and ends it after them.

    It reads its tables beside what is done before. Within another `started` that one is used.
    Without Java, or unless it is `wanted`, nothing happens.
    """
    global _kept
    if _kept is not None or not wanted or why_not():
        yield
        return
    with _decimal_points():
        _kept = Meteor()
    try:
        yield
    finally:
        _end()


def score(gts: Mapping[Hashable, list[str]], res: Mapping[Hashable, list[str]]) -> float:
    """METEOR of a split, in [0, 1]; its process is ended if it fails or hangs.

    Args:
      gts: references by image id, of tokens joined by spaces.
      res: one hypothesis by image id, in a list.

    Raises:
      RuntimeError: the process failed.
    """
    with started():
        process = _kept.meteor_p
        # Reads from a killed process return nothing, so the scorer raises instead of waiting.
        watchdog = threading.Timer(_SECONDS, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            value, _ = _kept.compute_score(gts, res)
        except (OSError, ValueError) as error:
            process.kill()
            said = process.stderr.read().decode(errors="replace").strip()[-500:]
            _end()
            raise RuntimeError(
                f"METEOR's Java process failed ({said or 'nothing on stderr'}), and meteor=False "
                "leaves it out"
            ) from error
        except BaseException:
            _end()  # Its answers would be taken for those of the next captions.
            raise
        finally:
            watchdog.cancel()
    return value


def _end() -> None:
    """Ends the kept process; another may be started."""
    global _kept
    if _kept is None:
        return
    scorer, _kept = _kept, None
    process = scorer.meteor_p
    process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):  # flushing to an ended process fails
            pipe.close()
    process.wait()
    if scorer.lock.locked():  # otherwise the scorer's __del__ waits for it for ever
        scorer.lock.release()


@contextlib.contextmanager
def _decimal_points() -> Iterator[None]:
    """Lets a Java process that is started inside read and write numbers as in English."""
    name = "JAVA_TOOL_OPTIONS"
    before = os.environ.get(name)
    os.environ[name] = f"{before or ''} -Duser.language.format=en -Duser.country.format=US"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
