"""Gives commands, `python -m ...`, in forks of a process that has imported what they import."""

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


class Warm:
    """The process, which starts no device; a context, at whose end it is gone."""

    def __init__(self, modules, environment, cwd=None):
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env=environment,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def give(self, arguments, folder, stdin="", environment=None):
        """The finished process of a module and its arguments, in a folder."""
        with tempfile.TemporaryDirectory() as streams:
            Path(streams, "0").write_text(stdin)
            asked = [arguments, str(folder), streams, environment]
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            said = [Path(streams, number).read_text(errors="replace") for number in "12"]
        return subprocess.CompletedProcess(arguments, status, *said)

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _serve():
    """Answers with exit statuses until stdin ends; in a fork, gives what that is to do."""
    for line in sys.stdin:
        if not (child := os.fork()):
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
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
