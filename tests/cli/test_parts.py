"""--parts imports what the user names, and says in one line what can't be imported."""

import sys

import pytest

from capjax import caption
from capjax.cli import export
from capjax.cli.errors import USAGE
from capjax.cli.parts import import_parts
from capjax.parts import DECODERS
from tests.helpers.command_line import python

FILE = """
from capjax.parts import DECODERS
from my_neighbour import WORD

DECODERS.register({name!r}, "my_neighbour:WORD")
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test imports and registers goes with it."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(DECODERS, "_registered", dict(DECODERS._registered))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    (tmp_path / "my_neighbour.py").write_text("WORD = 'found'\n")
    (tmp_path / "my_decoder.py").write_text(FILE.format(name="mine"))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text(FILE.format(name="packaged"))
    return tmp_path


def test_a_file_registers_its_parts_once(folder):
    import_parts([str(folder / "my_decoder.py"), str(folder / "my_decoder.py")])
    assert DECODERS.get("mine") == "found"


def test_a_module_is_found_in_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    import_parts(["my_package"])
    assert DECODERS.get("packaged") == "found"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, "there is no such file"),
        ("no_such_module", None, "no such module; a file must be given with its ending, .py"),
        ("folder/", None, "must be a module, or a Python file, for example my_parts.py"),
        ("json.py", "", "Python has another module 'json' ("),
        ("broken.py", "x = 1\nx.y", "AttributeError: 'int' object has no attribute 'y' (line 2)"),
        ("slip.py", "def f(:", "SyntaxError: invalid syntax"),
        ("needs.py", "import nothing_such", "No module named 'nothing_such' (line 1)"),
        (
            "taken.py",
            "from capjax.parts import DECODERS\nDECODERS.register('gpt2', int)",
            "capjax has a decoder 'gpt2' already: give yours another name (line 2)",
        ),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(tmp_path, capsys, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    given = str(path) if name.endswith((".py", "/")) else name
    with pytest.raises(SystemExit) as raised:
        import_parts([given])
    assert raised.value.code == USAGE
    line = capsys.readouterr().err
    assert line.startswith("error: --parts ")
    assert message in line
    assert line.count("\n") == 1


@pytest.fixture(name="says_so")
def make_says_so(tmp_path):
    (tmp_path / "says_so.py").write_text("raise ValueError('imported')")
    return str(tmp_path / "says_so.py")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(caption, ["--workdir", "nowhere", "x.jpg"]), (export, ["--workdir", "nowhere", "--to", "x"])],
)
def test_commands_import_it_before_anything_else(capsys, says_so, command, arguments):
    with pytest.raises(SystemExit) as raised:
        command.main([*arguments, "--parts", says_so])
    assert raised.value.code == USAGE
    assert capsys.readouterr().err == f"error: --parts {says_so}: imported (line 1)\n"


def test_commands_with_a_config_import_it_before_that(says_so):
    done = python("-m", "capjax", "show", "--config", "nothing.py", f"--parts={says_so}")
    assert done.returncode == USAGE
    assert done.stderr.endswith(f"error: --parts {says_so}: imported (line 1)\n")
