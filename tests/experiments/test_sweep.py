"""The sweep's command line, from variants to tables, in real processes."""

import json
import shlex
import signal
import sys
import time

import pytest

from capjax.files.locks import one_at_a_time
from capjax.run.environment import describe
from capjax.run.load import load_tokenizer
from capjax.run.workdir import WorkdirError
from capjax.train.signals import Interrupted, Interruption
from capjax.train.writer import read_metrics
from experiments import sweep, sweep_run
from experiments.sweep_plan import make_runs, read_record, read_sweep_file, write_record
from experiments.sweep_run import run_one
from tests.helpers.command_line import begin, call
from tests.helpers.tiny_run import write_folder

SWEPT = pytest.mark.slow(reason="of a whole sweep, which starts several processes")


def sweep_of(folder):
    return f"tests/helpers/tiny_sweep.py:{folder}"


@pytest.fixture(scope="session", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    write_folder(folder)
    return folder


@pytest.fixture(scope="session", name="swept")
def make_swept(home, folder):
    """A sweep's folder, hit by SIGTERM in its first run; and both its calls.

    It is continued with as many runs at once as there are cores, two at most: one of them fails
    long before the other is done.
    """
    directory = folder / "swept"
    arguments = ["experiments.sweep", sweep_of(folder), "--workdir", str(directory)]
    # Without Java, which takes longer than all else, and with cores to share, not accelerators.
    env = {"PATH": "/nonexistent", "JAX_PLATFORMS": "cpu"}
    hit = call(home, *arguments, check=False, HIT_AT="5", **env)
    record = read_record(str(directory / "runs" / "plain-seed3"))
    arguments += ["--parallel", str(min(describe()["processors"], 2))]
    return directory, hit, record, call(home, *arguments, check=False, **env)


@SWEPT
def test_a_sweep_that_is_hit_is_left_in_good_order(swept):
    directory, hit, record, _ = swept
    assert hit.returncode == 75, hit.stdout + hit.stderr
    assert f"the same command continues {directory}" in hit.stdout
    assert "[1/2] plain-seed3: stopped by a signal, to be continued" in hit.stdout
    # Of one run at a time, what it says is shown, too.
    workdir = directory / "runs" / "plain-seed3"
    assert f"stopped by a signal at step 5: the same command continues {workdir}" in hit.stderr
    assert "broken" not in hit.stdout
    assert (record.status, record.evaluations) == ("begun", {})
    assert record.seconds["train"] > 0


@SWEPT
def test_the_same_command_continues_it(swept):
    directory, _, before, done = swept
    workdir = directory / "runs" / "plain-seed3"
    log = (workdir / "log.txt").read_text()
    assert f"continuing {workdir} from step 5" in log
    rows = [r for r in read_metrics(str(workdir / "metrics.jsonl")) if r["group"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 11))
    record = read_record(str(workdir))
    assert (record.status, record.error) == ("done", None)
    assert record.seconds["train"] > before.seconds["train"]
    assert record.captions_per_second > 0
    assert record.peak_memory_mib > 10
    assert record.parameters > record.trainable_parameters > 0
    assert {*record.evaluations} == {"beam2", "the_same"}
    stem = record.evaluations["beam2"]
    assert stem.startswith("validation-step10-beam2")
    rows = read_metrics(str(workdir / "metrics.jsonl"))
    assert record.seconds == {"train": rows[-1]["wall_seconds"], stem: record.seconds[stem]}
    assert record.seconds[stem] > 0
    # One decoding of two names is made once.
    assert record.evaluations["the_same"] == stem
    assert log.count("wrote ") == 1
    assert "[1/2] plain-seed3: done, trained in " in done.stdout
    assert (workdir / "evaluation" / f"{stem}.metrics.json").exists()
    assert (directory / "results.md").exists()


@SWEPT
def test_a_failed_run_is_named_and_the_others_go_on(swept):
    directory, _, _, done = swept
    assert done.returncode == 1
    assert "[2/2] broken-seed3: failed: " in done.stdout
    reason = "is no word with numbers"
    assert reason in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: broken-seed3: ")
    record = read_record(str(directory / "runs" / "broken-seed3"))
    assert record.status == "failed"
    assert reason in record.error
    assert reason in (directory / "runs" / "broken-seed3" / "log.txt").read_text()


@SWEPT
def test_what_was_swept_is_on_disk(swept, folder):
    directory = swept[0]
    record = json.loads((directory / "sweep.json").read_text())
    assert record["file"] == sweep_of(folder)
    assert record["baseline"] == "plain"
    assert record["evaluations"] == {"beam2": {}, "the_same": {"num_beams": 2}}
    assert [run["name"] for run in record["runs"]] == ["plain-seed3", "broken-seed3"]
    config = record["runs"][0].pop("config")
    assert (config["num_steps"], config["seed"], config["tokenizer.min_count"]) == (10, 3, 1)
    assert "dataset.cache_dir" not in config
    assert record["runs"][0] == {
        "name": "plain-seed3",
        "variant": "plain",
        "seed": 3,
        "workdir": "runs/plain-seed3",
        "overrides": {},
        "decodings": dict.fromkeys(["beam2", "the_same"], "beam2-lp0.7-max8-earlytrue"),
    }
    assert set(record["runs"][1]["overrides"]) == {"word_vectors.file"}


def command_line(monkeypatch, *arguments):
    """What the sweep's command line exits with, in this process."""
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    try:
        sweep.main()
    except SystemExit as error:
        return error.code
    return 0


@pytest.fixture(name="never")
def make_never(monkeypatch):
    """Fails where a process would be started."""
    monkeypatch.setattr(sweep, "run_jobs", lambda jobs, *_, **__: pytest.fail(str(jobs)))


@SWEPT
def test_what_is_done_is_not_done_again(swept, folder, monkeypatch, capsys):
    directory = str(swept[0])
    started = []
    monkeypatch.setattr(sweep, "run_jobs", lambda jobs, *_, **__: started.extend(jobs))
    place = [sweep_of(folder), "--workdir", directory]
    assert command_line(monkeypatch, *place, "--only", "plain*") == 0
    assert "[1/2] plain-seed3: already done" in capsys.readouterr().out
    assert not started
    # Other decoding is evaluated, nothing else done.
    runs = make_runs(read_sweep_file(sweep_of(folder)), ["--config.decoding.length_penalty=0.5"])
    assert sweep.left_to_do(runs[0], directory) == ["beam2", "the_same"]


@SWEPT
def test_a_run_whose_config_has_changed_is_refused_and_keeps_what_it_has(swept, folder):
    directory = str(swept[0])
    path = str(swept[0] / "runs" / "plain-seed3")
    before = read_record(path)
    runs = make_runs(read_sweep_file(sweep_of(folder)), ["--config.optimizer.weight_decay=0.5"])
    assert sweep.left_to_do(runs[0], directory) == ["train", "beam2", "the_same"]
    with pytest.raises(WorkdirError, match=r"optimizer\.weight_decay: 0.05 in the run, 0.5 now"):
        run_one(runs[0], path, Interruption())
    record = read_record(path)
    assert record.status == "failed"
    assert "optimizer.weight_decay: 0.05 in the run, 0.5 now" in record.error
    # The file as it was: there is nothing to do but to say so.
    runs = make_runs(read_sweep_file(sweep_of(folder)))
    assert sweep.left_to_do(runs[0], directory) == ["its record"]
    run_one(runs[0], path, Interruption())
    assert sweep.left_to_do(runs[0], directory) == []
    assert read_record(path) == before


@SWEPT
def test_a_run_waits_for_another_process_that_does_it(swept, folder, home):
    directory, path = swept[0], swept[0] / "runs" / "plain-seed3"
    before = read_record(str(path))
    with one_at_a_time(path / "sweep_run.lock", "nobody"):
        place = [sweep_of(folder), "--run", "plain-seed3", "--workdir", directory]
        with begin(home, "experiments.sweep_run", *place) as other:
            while other.running() and not other.said():
                time.sleep(0.01)
            other.signal(signal.SIGTERM)
            done = other.finish()
        assert done.stdout.splitlines()[0] == "another process runs plain-seed3: waiting for it"
        assert done.returncode == 75
    assert read_record(str(path)) == before


@SWEPT
def test_an_evaluation_that_is_gone_is_made_once_more(swept, folder, monkeypatch):
    directory, path = swept[0], swept[0] / "runs" / "plain-seed3"
    before = read_record(str(path))
    run = make_runs(read_sweep_file(sweep_of(folder)))[0]
    file = path / "evaluation" / f"{before.evaluations['beam2']}.images.json"
    content = file.read_bytes()
    file.unlink()
    assert sweep.left_to_do(run, str(directory)) == ["beam2", "the_same"]

    # Two ways to be interrupted: a signal whose exception was lost, and nobody who reads stdout.
    lost = Interruption()
    lost.requested = True

    def no_reader(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(sweep_run, "evaluate", no_reader)
    for interruption, error in ((lost, Interrupted), (Interruption(), BrokenPipeError)):
        with pytest.raises(error):
            run_one(run, str(path), interruption)
        record = read_record(str(path))
        assert (record.status, record.error) == ("begun", None)

    made = []

    def write(config, workdir, *, split, checkpoint):
        made.append((workdir, split, checkpoint))
        file.write_bytes(content)
        return {}

    monkeypatch.setattr(sweep_run, "evaluate", write)
    run_one(run, str(path), Interruption())
    assert made == [(str(path), "validation", "10")]
    assert sweep.left_to_do(run, str(directory)) == []
    assert read_record(str(path)).evaluations == before.evaluations


@SWEPT
@pytest.mark.usefixtures("never")
def test_a_dry_run_lists_what_is_left_and_sizes(swept, folder, monkeypatch, capsys):
    directory = swept[0]
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    place = [sweep_of(folder), "--workdir", str(directory), "--dry_run"]
    assert command_line(monkeypatch, *place) == 0
    plain, broken = capsys.readouterr().out.splitlines()[1:3]
    assert plain.split()[0] == "plain-seed3"
    assert plain.endswith("  nothing")
    assert broken.endswith("  train, beam2, the_same")
    # In all, and what a word adds: with the words that there are, what training found.
    record = read_record(str(directory / "runs" / "plain-seed3"))
    words = load_tokenizer(directory / "runs" / "plain-seed3").vocab_size
    sizes = [int(text.replace(",", "")) for text in plain.split() if text[0].isdigit()]
    total, slope, trained, same = sizes
    assert (total + slope * words, trained + same * words) == (
        record.parameters,
        record.trainable_parameters,
    )
    assert before == {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


@pytest.mark.usefixtures("never")
def test_a_dry_run_names_what_makes_no_model(tmp_path, monkeypatch, capsys):
    file = tmp_path / "odd.py"
    file.write_text(
        "from configs import shapes_transformer\n"
        "from experiments.variants import Sweep, Variant\n"
        "def get_sweep():\n"
        "    variants = [Variant('a'), Variant('odd', {'decoder.width': 63})]\n"
        "    return Sweep(shapes_transformer.get_config, variants, {'e': {}}, 'a')\n"
    )
    place = [str(file), "--workdir", str(tmp_path / "swept"), "--dry_run"]
    assert command_line(monkeypatch, *place) == 2
    assert "error: variant odd: " in (said := capsys.readouterr().err)
    assert "63" in said


@pytest.mark.usefixtures("never")
def test_commands_are_printed_for_a_job_array(folder, tmp_path, monkeypatch, capsys):
    directory = tmp_path / "it's new"
    field = "--config.dataset.root=a b"
    place = [sweep_of(folder), "--workdir", str(directory), "--commands", field]
    assert command_line(monkeypatch, *place) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[:3] for line in lines] == [
        ["python", "-m", "experiments.sweep_run"]
    ] * 2
    assert shlex.split(lines[1])[3:] == [
        sweep_of(folder),
        *("--run", "broken-seed3", "--workdir", str(directory), field),
    ]
    # Which the runs want, and tables.
    assert (directory / "sweep.json").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.py"], 2, "there is no file 'nowhere.py'"),
        (["FILE", "--only", "x*"], 2, "--only=x* matches no run; the runs are plain-seed3, "),
        (["FILE", "--config.num_step=3"], 2, "did you mean num_steps"),
        (["FILE", "--dryrun"], 2, "error: unexpected argument '--dryrun'; fields are "),
        (["FILE", "--parallel", "0"], 2, "--parallel=0"),
        (["FILE", "--workdir", __file__], 1, "is a file"),
    ],
)
@pytest.mark.usefixtures("never")
def test_mistakes_are_answered(folder, tmp_path, arguments, status, message, monkeypatch, capsys):
    arguments = [sweep_of(folder) if text == "FILE" else text for text in arguments]
    if "--workdir" not in arguments:
        arguments += ["--workdir", str(tmp_path)]
    assert command_line(monkeypatch, *arguments) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_what_says_nothing_itself_is_explained_by_its_log(tmp_path, folder, capsys):
    runs = make_runs(read_sweep_file(sweep_of(folder)))
    path = tmp_path / runs[0].workdir
    path.mkdir(parents=True)

    def append(text):
        with (path / "log.txt").open("a") as log:
            log.write(text)

    progress = sweep.Progress(str(tmp_path), runs)
    append("error: of another visit\n")
    progress.begin(runs[0])
    append("first\n\nsecond\n" + "x\n" * 4)
    progress.end(runs[0], -9)
    assert progress.failed == {"plain-seed3": "killed by SIGKILL | second | x | x | x | x"}
    assert read_record(str(path)).error == progress.failed["plain-seed3"]
    append("error: of another visit\n")
    progress.begin(runs[0])
    progress.end(runs[0], -9)
    assert progress.failed == {"plain-seed3": "killed by SIGKILL"}
    progress.begin(runs[0])
    append("first\nerror: it is so\n")
    assert read_record(str(path)).status == "begun"
    progress.end(runs[0], 1)
    assert progress.failed == {"plain-seed3": "it is so"}
    # What the run said itself stays.
    record = read_record(str(path))
    record.error = "its own"
    write_record(str(path), record)
    progress.end(runs[0], 1)
    assert progress.failed == {"plain-seed3": "its own"}
    capsys.readouterr()
