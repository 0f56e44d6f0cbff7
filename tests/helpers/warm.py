"""Gives commands, `python -m ...`, in forks of a process that has imported what they import."""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Of TensorFlow, as capjax.data.pipeline sets them before it imports it.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}


class Warm:
    """The process, which starts no device; a context, at whose end it is gone."""

    def __init__(self, modules, environment, cwd=None):
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env={**environment, **_QUIET},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def give(self, arguments, folder, stdin="", environment=None):
        """The finished process of a module and its arguments, in a folder."""
        with self.begin(arguments, folder, stdin, environment) as given:
            return given.finish()

    def begin(self, arguments, folder, stdin="", environment=None):
        """The same, which has just begun."""
        streams = tempfile.TemporaryDirectory()
        Path(streams.name, "0").write_text(stdin)
        asked = [arguments, str(folder), streams.name, environment]
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Given(arguments, int(self._process.stdout.readline()), streams)

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Given:
    """A command that was given; a context, at whose end it is gone."""

    def __init__(self, arguments, pid, streams):
        self._arguments, self._pid, self._streams = arguments, pid, streams
        self._status = Path(streams.name, "status")

    def running(self):
        return not self._status.exists()

    def said(self, number=1):
        """Its standard output so far, or its standard error."""
        file = Path(self._streams.name, str(number))
        return file.read_text(errors="replace") if file.exists() else ""

    def signal(self, number):
        if self.running():
            os.kill(self._pid, number)

    def finish(self):
        """The finished process."""
        while self.running():
            time.sleep(0.005)
        status = int(self._status.read_text())
        return subprocess.CompletedProcess(self._arguments, status, *map(self.said, (1, 2)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.signal(signal.SIGKILL)
        self.finish()
        self._streams.cleanup()


def _serve():
    """Answers with process ids until stdin ends; in a fork, gives what that is to do."""
    keepers = []
    for line in sys.stdin:
        keepers = [pid for pid in keepers if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        if keeper := os.fork():
            keepers.append(keeper)
        elif child := os.fork():
            print(child, flush=True)
            _, status = os.waitpid(child, 0)
            file = os.path.join(json.loads(line)[2], "status")
            Path(f"{file}.part").write_text(str(os.waitstatus_to_exitcode(status)))
            os.rename(f"{file}.part", file)
            os._exit(0)
        else:
            return json.loads(line)
    return None


def _run(arguments, folder, streams, environment):
    for number, flags in enumerate((os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2)):
        os.dup2(os.open(os.path.join(streams, str(number)), flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 as long as the process
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv[1:] = arguments[1:]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # No fork goes through what all share.
    if asked := _serve():
        _run(*asked)
