"""Several devices and several processes compute what one does; killed, they go on as one would."""

import contextlib
import json
import os
import re
import signal
import socket
import time

import jax
import numpy as np
import pytest

import capjax
from capjax.config import checks
from capjax.config.errors import ConfigError
from capjax.parallel import processes
from capjax.run.train import train
from configs import base
from tests.helpers import command_line, tiny_run
from tests.helpers.command_line import REPOSITORY
from tests.helpers.warm import Warm

# Only silence takes so long: a machine that stands still for minutes is no dead process.
PATIENT = "--process_timeout=3600"


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_run.write_folder(folder)
    return folder


@pytest.fixture(scope="module", name="warm")
def make_warm():
    """Starts what needs JAX alone."""
    with Warm(["capjax.parallel.devices"], {**os.environ}, REPOSITORY) as warm:
        yield warm


@contextlib.contextmanager
def together(begun):
    """Commands that have begun; none outlives the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(command) for command in begun]


def finish(commands):
    """[(status, stdout, stderr)]."""
    done = [command.finish() for command in commands]
    return [(each.returncode, each.stdout, each.stderr) for each in done]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def pair(warm, mode, file, count=2):
    """`process_pair.py` in processes that SLURM would have started; a context."""
    cluster = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(count)}
    cluster |= {**os.environ, "JAX_COORDINATOR_PORT": str(free_port())}
    arguments = ["tests.helpers.process_pair", mode, str(file)]
    numbered = [{**cluster, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]
    return together([warm.begin(arguments, REPOSITORY, environment=each) for each in numbered])


def command(folder, workdir, *arguments):
    """The command line of a run, with features of its own, not those of one device."""
    own = f"--config.dataset.cache_dir={workdir.parent / 'cache'}"
    config = f"tests/helpers/tiny_run.py:{folder}"
    return ["capjax.main", "--config", config, "--workdir", workdir, own, *arguments]


def two_processes(home, folder, workdir, *arguments):
    """A run of two processes; a context."""
    address = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", "2", PATIENT]
    line = command(folder, workdir, *arguments, *address)
    return together([command_line.begin(home, *line, f"--process_id={i}") for i in range(2)])


def rows(workdir):
    timed = ("captions_per_second", "step_seconds", "wall_seconds")
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in timed} for row in lines]


@pytest.fixture(scope="module", name="ending")
def make_ending(warm, tmp_path_factory):
    """Pairs of which one process fails or dies; the others wait while runs train."""
    file = tmp_path_factory.mktemp("pairs") / "file"
    with pair(warm, "error", file) as failed, pair(warm, "death", file) as killed:
        yield failed, killed


@pytest.fixture(scope="module", name="one")
def make_one(folder, tmp_path_factory):
    """The run of one device."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    train(tiny_run.get_config(str(folder)), str(workdir))
    return workdir


@pytest.fixture(scope="module", name="two")
def make_two(home, folder, tmp_path_factory):
    """The run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    command_line.call(home, *command(folder, workdir), XLA_FLAGS=flags)
    return workdir


@pytest.mark.slow(reason="whole trainings in processes of their own")
@pytest.mark.usefixtures("ending")
def test_two_devices_give_the_losses_and_scores_of_one(one, two):
    left, right = rows(one), rows(two)
    assert len(left) == len(right) == 18
    for row, other in zip(left, right, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if name == "group":
                assert other[name] == value
            else:
                # After some updates from sums in another order.
                np.testing.assert_allclose(other[name], value, rtol=1e-4, err_msg=f"{row} {name}")


@pytest.mark.slow(reason="whole trainings in processes of their own")
def test_two_processes_one_killed_and_restarted_are_one_process(home, folder, two, tmp_path):
    """Bit for bit one process of two devices that nobody stopped."""
    killed = tmp_path / "killed"
    with two_processes(home, folder, killed) as running:
        log = killed / "metrics.jsonl"
        while running[1].running() and not (log.exists() and '"step": 7' in log.read_text()):
            time.sleep(0.005)
        running[1].signal(signal.SIGKILL)
        statuses = [status for status, _, _ in finish(running)]
    assert statuses[0] != 0  # It did not wait for ever, nor go on alone.
    with two_processes(home, folder, killed, "--config.evaluation.num_samples=1") as running:
        done = finish(running)
    assert [status for status, _, _ in done] == [0, 0], done
    assert re.search(rf"continuing {killed} from step \d+", done[0][1])
    assert rows(killed) == rows(two)
    left, right = (capjax.load(workdir, "latest").variables for workdir in (two, killed))
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert done[1][1] == ""
    assert "step/s" not in done[1][2]
    assert {"training.png", "image_0_temperature_0.png"} <= {
        path.name for path in (killed / "figures").rglob("*.png")
    }


def test_processes_agree_and_stop_at_the_same_step(warm, tmp_path):
    """Started as by SLURM; SIGTERM to one of them."""
    with pair(warm, "agree", tmp_path / "file") as running:
        done = finish(running)
    assert [status for status, _, _ in done] == [75] * 2, done
    assert "said by one alone" in done[0][1]
    assert [output for _, output, _ in done[1:]] == [""]


@pytest.fixture(scope="module", name="ended")
def make_ended(ending):
    """What pairs said of which one process failed or died."""
    return tuple(map(finish, ending))


@pytest.mark.slow(reason="waits for other processes; what they agree on is tested every day")
def test_an_error_of_one_ends_all(ended):
    first, second = ended[0]
    assert second[0] == first[0] == 1
    assert second[2] == "error: there is no such file\n"
    assert first[2] == "error: stopped because of an error in process 1: there is no such file\n"


@pytest.mark.slow(reason="JAX waits before it gives a dead process up")
def test_a_death_is_said_in_one_sentence_first(ended):
    first, second = ended[1]
    assert second[0] == -signal.SIGKILL
    assert first[0] != 0
    said = "another process of the run may have died"
    assert said in first[2].partition("Traceback")[0].partition("Fatal")[0], first[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "a:1"}, "--num_processes and --process_id is missing"),
        ({"process_id": 0}, "--coordinator and --num_processes is missing"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "a:x", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "num_processes=0 must be 1"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "must lie in 0 to 1"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": -1}, "must lie in 0 to 1"),
        ({"automatic": True, "process_id": 1}, "--distributed detects --process_id by itself"),
        ({"automatic": True, "timeout": 0}, "process_timeout=0 must be 1 second"),
    ],
)
def test_flags_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(processes.ProcessesError, match=message):
        processes.start(**arguments)


def test_one_process_needs_no_others():
    processes.start()
    assert (processes.index(), processes.count(), processes.is_primary()) == (0, 1, True)
    with processes.propagate_errors(), processes.primary_first():
        assert processes.broadcast_from_primary(lambda: object) is object
    assert not processes.asked_to_stop(1)


@pytest.mark.parametrize(
    ("processes", "local", "fields", "message"),
    [
        (1, 8, {"batch_size": 12}, r"batch_size=12 must be a multiple of 8, .*: 8 or 16 would do"),
        (1, 8, {"batch_size": 4}, r"batch_size=4 must be a multiple of 8, .*: 8 would do"),
        (4, 2, {"evaluation.batch_size": 9}, "evaluation.batch_size=9 .* 8 devices of 4 processes"),
        (
            2,
            2,
            {"batch_size": 12, "accumulate": 2},
            "of 8, the 4 devices of 2 processes times",
        ),
        (1, 1, {"batch_size": 64, "accumulate": 3}, "config.accumulate=3: 63 or 66 would do"),
    ],
)
def test_batches_that_do_not_divide_are_named(monkeypatch, processes, local, fields, message):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "device_count", lambda: processes * local)
    monkeypatch.setattr(jax, "local_device_count", lambda: local)
    config = base.get_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=message):
        checks.check_devices(config, "batch_size", "evaluation.batch_size")
    # What is not computed may be as it likes.
    config.batch_size, config.evaluation.batch_size = 3, 64
    checks.check_devices(config, "evaluation.batch_size")


def test_processes_with_unlike_devices_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match="each must have as many as the others"):
        checks.check_devices(base.get_config(), "batch_size")
