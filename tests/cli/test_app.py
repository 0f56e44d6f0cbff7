"""The command `capjax`: quick, light, and a door to every command line."""

import re
import runpy
import sys
import tomllib

import pytest
from absl import flags

import capjax
from capjax.cli.app import COMMANDS, main
from capjax.cli.errors import USAGE
from tests.helpers.command_line import REPOSITORY, python
from tests.test_floors import FORWARDERS

HEAVY = {"jax", "flax", "optax", "orbax", "tensorflow", "matplotlib", "torch", "transformers"}
LIGHT = """
import sys
from capjax.cli.app import main
try:
    main(["--help"])
finally:
    heavy = {"jax", "flax", "optax", "numpy", "tensorflow", "absl"} & sys.modules.keys()
    assert not heavy, heavy
"""


def test_help_imports_nothing_heavy_and_lists_every_command():
    done = python("-c", LIGHT)
    assert done.returncode == 0, done.stderr
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.about)}$", done.stdout, re.MULTILINE)


HELP = f"""
import os, sys
from capjax.cli.app import COMMANDS, main
wrong = []
for arguments in [*([name] for name in COMMANDS), ["train", "--config", "shapes_transformer"]]:
    child = os.fork()  # Each defines the flags of one command.
    if not child:
        sys.argv[1:] = [*arguments, "--help"]
        sys.stdout = open(os.devnull, "w")
        try:
            main()
        except SystemExit as ended:
            heavy = {HEAVY!r} & sys.modules.keys()
            os._exit(1 if ended.code or heavy else 0)
        os._exit(1)
    wrong += [arguments] if os.waitpid(child, 0)[1] else []
sys.exit(f"not at once: {{wrong}}" if wrong else 0)
"""


def test_help_of_every_command_is_answered_without_jax():
    done = python("-c", HELP)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command():
    assert python("-m", "capjax", "--version").stdout == f"capjax {capjax.__version__}\n"
    with open(REPOSITORY / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["scripts"] == {"capjax": "capjax.cli.app:main"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; there are train, eval"),
        ([], "a command is missin"),
    ],
)
def test_a_wrong_command_lists_what_there_is(capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == USAGE
    line = capsys.readouterr().err
    assert line.startswith(f"error: {message}")
    assert line.count("\n") == 1


def test_modes_and_the_rest_of_the_line_reach_the_module(monkeypatch):
    found = []
    monkeypatch.setattr("capjax.main.main", found.append)
    monkeypatch.setattr("capjax.cli.export.main", found.append)
    for line in (["train", "--workdir", "x"], ["evaluate", "--split", "test"], ["export", "--to"]):
        with pytest.raises(SystemExit) as raised:
            main(line)
        assert not raised.value.code
    assert found == [
        ["--mode", "train", "--workdir", "x"],
        ["--mode", "evaluate", "--split", "test"],
        ["--to"],
    ]


@pytest.fixture(name="flags_forgotten")
def forget_flags():
    """The flags that a test defines go with it: a process has one command."""
    before = set(flags.FLAGS)
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.mark.usefixtures("flags_forgotten")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", ["capjax", name, "--help"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert not raised.value.code
    program = "train|evaluate" if COMMANDS[name].module == "capjax.main" else name
    assert capsys.readouterr().out.startswith(f"usage: capjax {program} ")


@pytest.mark.usefixtures("flags_forgotten")
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", sorted({"capjax.main", "capjax.caption", *FORWARDERS}))
def test_old_names_work(monkeypatch, capsys, module):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as raised:
        runpy.run_module(module, run_name="__main__")
    assert not raised.value.code
    assert capsys.readouterr().out.startswith("usage: capjax ")


def test_help_of_a_config_lists_its_fields_with_their_comments():
    done = python("-m", "capjax", "show", "--config", "shapes_vit_gpt2", "--help")
    fields = done.stdout.partition("fields of shapes_vit_gpt2:\n")[2]
    assert "  --config.seed=0\n      Seed of the initial parameters, the data" in fields
    assert "  --config.decoder.num_layers=3\n      Decoder blocks: 12, 24, 36, 48.\n" in fields
    assert "  --config.encoder.depth=3\n      Transformer blocks.\n" in fields
    assert "  --config.optimizer.b1=0.9\n      AdamW's decay of the gradient's mean.\n" in fields
    wrong = python("-m", "capjax", "show", "--config", "nothing", "--help")
    assert wrong.returncode == USAGE
    assert wrong.stderr.startswith("error: --config=nothing: there is no file 'nothing'")
