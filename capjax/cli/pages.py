"""Large pages for the arrays of a process, where Linux gives them on request.

XLA takes the memory of a program anew for each call, and touching a page of 4 KiB first costs as
much as half of a small product's work: training steps took 0.78 of the time on large ones
(benchmarks/README.md). glibc reads its settings as a process starts.
"""

import os
import sys
from pathlib import Path

_TUNABLES, _LARGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_SINCE = (2, 35)  # The glibc that knows it.
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages() -> dict[str, str]:
    """The environment in which a new process has them; empty if it has them or can't have them."""
    before = os.environ.get(_TUNABLES, "")
    if "glibc.malloc.hugetlb" in before or not _on_request():
        return {}
    return {_TUNABLES: f"{before}:{_LARGE}" if before else _LARGE}


def use_large_pages() -> None:
    """Starts this process anew with large pages, unless it has them or can't have them.

    It keeps its number, its command line and its open files, so nothing must have been read.
    Nothing is done where its command line is not what runs, as in a fork of a warm process.
    """
    needed, given = large_pages(), sys.argv[1:]
    is_its_own = sys.orig_argv[len(sys.orig_argv) - len(given) :] == given
    if not needed or not sys.executable or not is_its_own or "jax" in sys.modules:
        return
    os.environ.update(needed)
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:  # As before, then.
        return


def _on_request() -> bool:
    """Whether this system gives large pages to those that ask."""
    try:
        library, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        numbers = tuple(map(int, version.split(".")[:2]))
        return library == "glibc" and numbers >= _SINCE and "[madvise]" in _ENABLED.read_text()
    except (AttributeError, OSError, ValueError):  # Another system.
        return False
