"""One process in a workdir at a time, and clear errors where its disk does not go along."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from capjax.files.atomic import write_atomic
from capjax.files.locks import lock_open_file, one_at_a_time
from capjax.run.lock import LockedError, only_one
from capjax.run.train import train
from capjax.run.workdir import Workdir, WorkdirError
from capjax.train.checkpoint import CheckpointError
from configs import folder_transformer


def test_a_second_process_is_told_who_trains(tmp_path):
    folder = tmp_path / "run"
    # A lock of one file opened twice is the same in one process as in two.
    with Workdir(folder).train_lock():
        message = f"process {os.getpid()} on {socket.gethostname()} trains in {folder}: wait for"
        with pytest.raises(WorkdirError, match=message):
            train(folder_transformer.get_config(), str(folder))
        assert sorted(path.name for path in folder.iterdir()) == ["lock"]
    with Workdir(folder).train_lock():
        pass


def test_a_lock_without_a_name_still_holds(tmp_path):
    with Workdir(tmp_path).train_lock():
        (tmp_path / "lock").write_text("")
        with (
            pytest.raises(WorkdirError, match="another process trains in"),
            Workdir(tmp_path).train_lock(),
        ):
            pass


def test_a_killed_process_frees_its_lock(tmp_path):
    code = "import sys; from capjax.run.lock import only_one\nwith only_one(sys.argv[1]): input()"
    file = str(tmp_path / "lock")
    command = [sys.executable, "-c", code, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        while not (os.path.exists(file) and Path(file).read_text()):
            assert other.poll() is None
        with pytest.raises(LockedError, match=f"process {other.pid} on"), only_one(file):
            pass
        other.kill()
    with only_one(file):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    file = str(tmp_path / "lock")
    for _ in range(2):
        with only_one(file), one_at_a_time(file, "nobody waits"), open(file, "ab") as opened:
            assert lock_open_file(opened.fileno())


@pytest.mark.parametrize("parts", [(), ("run",)])
def test_a_file_in_the_place_of_a_workdir_is_named(tmp_path, parts):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(WorkdirError, match=f"{file} is a file, and no folder can be made"):
        train(folder_transformer.get_config(), str(file.joinpath(*parts)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to what is read-only, too")
def test_a_read_only_workdir_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkdirError, match="lock can't be read or written: Permission denied"):
        train(folder_transformer.get_config(), str(tmp_path))


def test_a_full_disk_is_said_with_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write():
        with Workdir(tmp_path).train_lock():
            monkeypatch.setattr("os.fsync", full)
            write_atomic(tmp_path / "a.json", b"{}")

    with pytest.raises(WorkdirError, match=r"a\.json can't be read or written: No space left"):
        write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "can't be read or written: No space"),
        (CheckpointError("checkpoint 3 can't be used"), "checkpoint 3 can't be used"),
        (FileNotFoundError(errno.ENOENT, "No such file", "INSIDE/x"), "INSIDE/x can't be read"),
    ],
)
def test_errors_of_the_workdir_are_workdir_errors(tmp_path, error, message):
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.replace("INSIDE", str(tmp_path))
    with (
        pytest.raises(WorkdirError, match=message.replace("INSIDE", str(tmp_path))),
        Workdir(tmp_path).train_lock(),
    ):
        raise error


def test_errors_of_other_files_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError), Workdir(tmp_path / "run").train_lock():
        Path(tmp_path / "running").read_text()


def test_what_a_killed_write_left_is_removed(tmp_path):
    (tmp_path / "figures").mkdir()
    left = [tmp_path / ".config.json.abcd_123", tmp_path / "figures" / ".training.png.x0x0x0x0"]
    others = [tmp_path / ".gitignore", tmp_path / ".notes.txt.abcd1234", tmp_path / "config.json"]
    for path in (*left, *others):
        path.write_text("")
    with Workdir(tmp_path).train_lock():
        pass
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)
