"""A command starts itself anew once, with large pages, and is otherwise the same process."""

import os
import subprocess
import sys

import pytest

from capjax.cli import pages

CODE = """
import os, sys
from capjax.cli.process import run_command

def main():
    print([os.environ.get("GLIBC_TUNABLES"), os.getpid(), sys.argv[1:], sys.stdin.read()])
    print(sys.flags.utf8_mode, sys.warnoptions)
    return 3

run_command(main)
"""
LARGE = "glibc.malloc.hugetlb=1"


class Started(Exception):
    pass


@pytest.fixture(name="started")
def record_starts(monkeypatch):
    """The command lines that would be started, on a system with large pages on request."""
    found = []

    def execv(path, arguments):
        found.append((path, arguments, os.environ["GLIBC_TUNABLES"]))
        raise Started

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(pages, "_on_request", lambda: True)
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "capjax", "train"])
    monkeypatch.setattr(sys, "argv", ["/capjax/__main__.py", "train"])
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    return found


def test_it_is_the_same_process_with_its_command_line_and_its_input():
    command = [sys.executable, "-X", "utf8", "-W", "ignore", "-c", CODE, "a b", "ü", ""]
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        encoding="utf-8",
    ) as process:
        out, _ = process.communicate("what is read")
    tunables = LARGE if pages._on_request() else None
    first, second = out.splitlines()
    assert first == str([tunables, process.pid, ["a b", "ü", ""], "what is read"])
    assert second == "1 ['ignore']"
    assert process.returncode == 3


def test_settings_of_a_user_stay(started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    with pytest.raises(Started):
        pages.use_large_pages()
    arguments = [sys.executable, "-m", "capjax", "train"]
    assert started == [(sys.executable, arguments, f"glibc.malloc.check=1:{LARGE}")]


@pytest.mark.parametrize("tunables", [LARGE, "glibc.malloc.hugetlb=0", f"glibc.a.b=1:{LARGE}"])
def test_a_process_that_has_chosen_starts_once(started, monkeypatch, tunables):
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    pages.use_large_pages()
    assert not started


def test_a_fork_of_a_warm_process_is_not_started_as_that_process(started, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["capjax", "caption", "a.jpg"])
    pages.use_large_pages()
    monkeypatch.setattr(sys, "argv", ["capjax", "train"])
    monkeypatch.setitem(sys.modules, "jax", object())
    pages.use_large_pages()
    assert not started


def test_where_it_can_not_start_anew_it_goes_on(started, monkeypatch):
    def fail(*_):
        raise PermissionError

    monkeypatch.setattr(os, "execv", fail)
    pages.use_large_pages()
    assert not started


@pytest.mark.parametrize(
    ("enabled", "library", "wanted"),
    [
        ("always [madvise] never", "glibc 2.36", True),
        ("always [madvise] never", "glibc 2.35", True),
        ("always [madvise] never", "glibc 2.34", False),
        ("[always] madvise never", "glibc 2.36", False),
        ("always madvise [never]", "glibc 2.36", False),
        ("always [madvise] never", None, False),
        ("always [madvise] never", "musl 1.2", False),
        (None, "glibc 2.36", False),
    ],
)
def test_only_where_they_are_given_on_request(monkeypatch, tmp_path, enabled, library, wanted):
    if enabled is not None:
        (tmp_path / "enabled").write_text(enabled)
    monkeypatch.setattr(pages, "_ENABLED", tmp_path / "enabled")
    monkeypatch.setattr(os, "confstr", lambda name: library)
    assert pages._on_request() == wanted
