"""Runs an artefact's runner.py in a process that can't import some packages."""

from tests.helpers.command_line import python

_SCRIPT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv.pop(1))
import runner
sys.exit(runner.main())
"""


def run_alone(folder, blocked, *arguments):
    """The finished process of the runner in `folder`, without the packages `blocked`."""
    return python("-c", _SCRIPT.format(blocked=blocked), folder, *arguments)
