"""Commands show the library's log and no other; a library that is imported prints nothing."""

import logging
import subprocess
import sys

from tqdm import tqdm

from capjax.cli.log import show_log
from tests.helpers.command_line import REPOSITORY

LOG = logging.getLogger("capjax.some.module")
SAYS = """
import logging
from capjax.cli.log import show_log
log = logging.getLogger("capjax.some.module")
log.info("not shown")
log.warning("a warning")
"""


def test_messages_are_lines_of_stdout_and_warnings_of_stderr(capsys):
    show_log()
    LOG.info("step %d of %s", 3, "run")
    LOG.warning("100% damaged")
    LOG.error("error: it stops")
    LOG.debug("a detail")
    assert capsys.readouterr() == ("step 3 of run\n", "100% damaged\nerror: it stops\n")


def test_each_message_is_shown_once_and_other_libraries_are_not(capsys):
    show_log()
    show_log()
    LOG.info("once")
    logging.getLogger("absl").warning("of orbax")
    logging.getLogger("capjaxes").warning("of another")
    assert capsys.readouterr() == ("once\n", "")


def test_without_a_command_only_warnings_are_shown():
    command = [sys.executable, "-c", SAYS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "a warning\n")


def test_a_message_does_not_end_in_a_progress_bar(capsys):
    show_log()
    with tqdm(total=3, desc="train", ascii=True, mininterval=0) as bar:
        bar.update()
        LOG.warning("a checkpoint is damaged")
    before, _, after = capsys.readouterr().err.partition("a checkpoint is damaged\n")
    # The bar is blank where the message begins, and drawn again after it.
    assert before.endswith(" \r")
    assert "train:" in after
