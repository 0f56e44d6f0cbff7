"""Whatever is wrong with a command line is one line and an exit status of 2."""

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from capjax.cli import flags as flags_module
from capjax.cli.flags import USAGE, parse_flags, with_run
from capjax.files.text import nearest
from tests.helpers.command_line import REPOSITORY
from tests.helpers.effort import examples

# ml_collections has it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SHAPES = str(REPOSITORY / "configs" / "shapes_transformer.py")


def parse(*arguments):
    """Parses as `capjax.main` does, with flags that no other test sees."""
    argv = ["program", *arguments]
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", known, lock_config=True, sys_argv=argv[1:])
    flags.DEFINE_string("workdir", None, "", flag_values=known)
    flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "", flag_values=known)
    flags.mark_flag_as_required("config", known)
    return parse_flags(argv, known), known


def said(capsys, *arguments):
    """The one line that a wrong command line ends with."""
    with pytest.raises(SystemExit) as raised:
        parse(*arguments)
    assert raised.value.code == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


def test_what_is_right_passes():
    rest, known = parse(
        f"--config={SHAPES}",
        "--config.decoder.num_layers=4",
        "--config.encoder.widths=(8,16)",
        "--config.init_parts=encoder",
        "--noconfig.dataset.flip",
        "--workdir",
        "x",
    )
    assert rest == ["program"]
    config = known.config
    assert (config.decoder.num_layers, config.encoder.widths) == (4, (8, 16))
    assert (config.init_parts, known.workdir) == (("encoder",), "x")


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("decoder.num_layer=3", "decoder.num_layers"),
        ("learning_rat=1", "optimizer.learning_rate"),
        ("optimiser.learning_rate=1", "optimizer.learning_rate"),
        ("num_layers=3", "decoder.num_layers"),
        ("decoder.dropuot=0", "decoder.dropout"),
        ("batchsize=3", "batch_size"),
        ("decoder=3", "config.decoder=3"),
        ("batch_size=lots", "config.batch_size=lots"),
        ("batch_size=(1,2)", "config.batch_size=(1,2)"),
        ("batch_size=1.5", "config.batch_size=1.5"),
        ("dataset.flip=perhaps", "config.dataset.flip=perhaps"),
        ("optimizer.learning_rate=fast", "config.optimizer.learning_rate=fast"),
        ("optimizer.zzz=1", "there are optimizer.b1, optimizer.b2"),
        ("=1", "no such field"),
        ("decoder.=1", "no such field"),
        ("decoder.name.x=1", "no such field"),
        ("[0]=1", "no such field"),
    ],
)
def test_a_wrong_field_is_named(capsys, field, meant):
    assert meant in said(capsys, f"--config={SHAPES}", f"--config.{field}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "give --config FILE_OR_NAME, or the folder of a run; the shipped configs are base, ",
        ),
        (["--config", "folder_transfomer"], "shipped config: did you mean folder_transformer"),
        (["--config"], "config"),
        (["--config="], "there is no file ''"),
        (["--config=none.py"], "there is no file 'none.py'"),
        (["--config=none.py", "--config.seed=1"], "there is no file 'none.py'"),
        (["--config", str(REPOSITORY / "configs")], "there is no file"),
        ([f"--config={SHAPES}:vgg"], "the stage is 'vgg'; it must be 'self_critical'"),
        ([f"--config={REPOSITORY}/configs/flickr8k_tf_tutorial.py:vgg"], "TypeError"),
        ([f"--config={REPOSITORY}/configs/folder_transformer.py:vgg"], "there is no encoder 'vgg'"),
        ([f"--config={SHAPES}", "--workdri=x"], "Unknown command line flag 'workdri'. Did you mea"),
        ([f"--config={SHAPES}", "--mode=sing"], "should be one of <train|evaluate>"),
        ([f"--config={SHAPES}", "extra"], "unexpected argument 'extra'"),
        (["--config.seed=1", f"--config={SHAPES}"], "before a value for --config"),
    ],
)
def test_wrong_flags_are_named(capsys, arguments, message):
    assert message in said(capsys, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax"),
        ("import nothing_such", "ModuleNotFoundError: No module named 'nothing_such' (line 1)"),
        ("def get_config():\n  return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def get_config():\n  raise ValueError('a\\nb')", "config.py: a b (line 2)"),
        ("x = 1", "this one has no get_config()"),
        ("def get_config(): pass", "this one returns None"),
        ("def get_config(): return {'seed': 1}", "this one returns {'seed': 1}"),
        ("def get_config(x): return 1", "TypeError"),
        ("raise OSError('disk')", "OSError: disk"),
        ("\0", "null bytes"),
        (
            "from configs import base\ndef get_config():\n  c = base.get_config()\n"
            "  c.batch_size = 'x'\n  return c",
            "TypeError: Could not override field 'batch_size'",
        ),
    ],
)
@pytest.mark.parametrize("more", [[], ["--config.seed=1"]])
def test_a_wrong_config_file_is_named(capsys, tmp_path, text, message, more):
    file = tmp_path / "config.py"
    file.write_text(text)
    line = said(capsys, f"--config={file}", *more)
    assert message in line
    assert "config.py" in line


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.one_of(st.text(max_size=8), st.sampled_from(["seed", "decoder.width", "dataset"])),
    value=st.text(max_size=8),
)
def test_any_field_and_value_are_taken_or_answered(capsys, field, value):
    try:
        parse(f"--config={SHAPES}", f"--config.{field}={value}")
    except SystemExit:
        line = capsys.readouterr().err
        if not line.startswith("error: ") or line.count("\n") != 1:
            pytest.fail(line)


def test_a_runs_folder_stands_for_workdir_and_config(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    run = str(tmp_path)
    own = f"--config={flags_module._RUN_CONFIG}:{run}"
    for argv, made in (
        (["--mode", "evaluate", run], [own, "--mode", "evaluate", f"--workdir={run}"]),
        (["--split", "test", "-d", run], [own, "--split", "test", "-d", f"--workdir={run}"]),
        (["--workdir", run, "--seed", "1"], [own, "--workdir", run, "--seed", "1"]),
        (["--config=x", run], ["--config=x", f"--workdir={run}"]),
        # What is wrong stays so.
        (["--config=x", "extra"], ["--config=x", "extra"]),
        (["--workdir", "new"], ["--workdir", "new"]),
        (["--workdir", "new", run], ["--workdir", "new", run]),
    ):
        assert with_run(argv, switches=("-d",)) == made
    with pytest.raises(SystemExit):
        with_run(["nowhere"], switches=())
    assert "nowhere is no run: it has no config.json" in capsys.readouterr().err


def test_nothing_like_it_lists_the_section():
    names = ["seed", "a.first", "a.second"]
    assert nearest("a.zzzz", names) == "there are a.first, a.second"
    assert nearest("b.first", names) == "did you mean a.first?"
    assert nearest("zzzz.yyyy", names) == "see configs/base.py"
