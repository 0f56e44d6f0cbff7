"""Standard streams that are closed, broken or of few letters, and threads that never end."""

import subprocess
import sys

import pytest

from tests.helpers.command_line import REPOSITORY

COMMAND = """
import sys, threading
from capjax.cli.process import run_command
def main():
{body}
run_command(main)
"""


def command(body, shell='exec "$@"', **environment):
    code = COMMAND.format(body="\n".join(f"    {line}" for line in body.split("\n")))
    line = ["bash", "-c", shell, "bash", sys.executable, "-c", code]
    return subprocess.run(
        line, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_files_of_the_run(tmp_path, closed):
    body = (
        f"file = open({str(tmp_path / 'a')!r}, 'w')\n"
        "assert file.fileno() > 2\n"
        "print('out'), print('err', file=sys.stderr), sys.stdin.read(), sys.stdin.fileno()"
    )
    done = command(body, f'exec "$@" {closed} < /dev/null'.replace("<&- < /dev/null", "<&-"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "around",
    ["", "from capjax.cli.errors import reported\nwith reported(): "],
    ids=["plainly", "and is no error of a file"],
)
def test_a_reader_that_leaves_ends_a_command_as_a_signal(around):
    body = f"{around}print(*['x' * 99] * 20000, sep='\\n')"
    done = command(body, '"$@" | head -1; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stderr) == (141, "")


def test_messages_to_nobody_are_dropped():
    body = "import time\nfor _ in range(3000): print('x' * 99, file=sys.stderr)\nprint('done')"
    done = command(body, '"$@" 2> >(head -c 1 > /dev/null); exit $?')
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_the_log_goes_on_without_a_reader():
    body = (
        "import logging\n"
        "from capjax.cli.log import show_log\n"
        "show_log()\n"
        "for _ in range(3000): logging.getLogger('capjax.x').info('x' * 99)\n"
        "print('done', file=sys.stderr)"
    )
    done = command(body, '"$@" | head -1')
    assert done.stderr == "done\n"


def test_a_full_disk_and_an_interruption_are_no_tracebacks():
    done = command("print('x' * 99_999)", '"$@" > /dev/full')
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")
    done = command(
        "threading.Thread(target=threading.Event().wait).start()\nraise KeyboardInterrupt"
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_letters_that_a_terminal_lacks_are_escaped():
    done = command("print('caf\\xe9 \\udce9')", 'PYTHONIOENCODING=ascii exec "$@"')
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\udce9\n")


def test_an_error_does_not_wait_for_threads():
    body = "threading.Thread(target=threading.Event().wait).start()\nsys.exit('error: no more')"
    done = command(body)
    assert (done.returncode, done.stderr) == (1, "error: no more\n")
    body = "threading.Thread(target=threading.Event().wait).start()\nraise KeyError('x')"
    done = command(body)
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError: 'x'\n")
