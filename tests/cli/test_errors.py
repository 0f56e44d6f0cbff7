"""Which errors are reported in one line, and how."""

import ast
import os

import pytest

from capjax.cli.errors import ERRORS, Parser, reported
from capjax.files.errors import DataError
from tests.test_floors import PACKAGE


def test_every_public_error_is_reported():
    missing = []
    # A runner has no capjax, whose commands make its errors theirs.
    alone = {PACKAGE / "artefact" / name for name in ("images.py", "manifest.py")}
    for file in {*PACKAGE.rglob("*.py")} - alone:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ClassDef) or not node.name.endswith("Error"):
                continue
            bases = {ast.unparse(base) for base in node.bases}
            if node.name.startswith("_") or node.name in (
                "ReportedError",
                "LayoutError",
                "LockedError",
                "RequestError",  # Answered to a client.
            ):
                continue
            if not bases & {"ReportedError", "DataError"}:
                missing.append(f"{file}: {node.name}")
    assert missing == []


@pytest.mark.parametrize("error", [DataError("no data"), OSError(28, os.strerror(28), "a.txt")])
def test_it_is_one_line(error):
    assert isinstance(error, ERRORS)
    with pytest.raises(SystemExit) as raised, reported():
        raise error
    assert raised.value.code == f"error: {error}"


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError), reported():
        raise KeyError("x")


def test_a_wrong_command_line_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as raised:
        Parser(prog="capjax x").parse_args(["--nothing"])
    message = "error: unrecognized arguments: --nothing; see capjax x --help\n"
    assert (raised.value.code, capsys.readouterr().err) == (2, message)
