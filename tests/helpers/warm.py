"""Run by command_line.py: has imported what command lines import, and forks for each of them.

A line of stdin asks for one: its module and arguments, its environment and the files that take
what it says. A line of stdout answers with its exit status.
"""

import json
import os
import runpy
import sys


def serve() -> list[str] | None:
    """Answers until stdin ends; in a forked process, gives what it is to run."""
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            for file, number in zip(asked["files"], (0, 1, 2), strict=True):
                os.dup2(os.open(file, os.O_RDWR), number)
            os.environ.clear()
            os.environ.update(asked["environment"])
            return asked["arguments"]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, flush=True)
    return None


if __name__ == "__main__":
    # Not the command lines themselves, which define flags. No device is started.

    import capjax.data.pipeline
    import capjax.data.tfds_source
    import capjax.run  # noqa: F401
    import experiments.sweep_plan  # noqa: F401

    arguments = serve()
    if arguments is not None:
        sys.argv[1:] = arguments[1:]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
