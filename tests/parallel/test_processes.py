"""Several devices and several processes compute what one does; killed, they go on as one would."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
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
from tests.helpers.command_line import REPOSITORY, environment

DEVICES = "--xla_force_host_platform_device_count"
# Only silence takes so long: a machine that stands still for minutes is no dead process.
PATIENT = "--process_timeout=3600"


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_run.write_folder(folder)
    return folder


@contextlib.contextmanager
def started(commands, **options):
    """All commands at the same time; none outlives the block."""
    with contextlib.ExitStack() as stack:
        processes = []
        for command, more in commands:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *command],
                    cwd=REPOSITORY,
                    env={**os.environ, **more},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    **options,
                )
            )
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def finish(processes):
    """[(status, stdout, stderr)]."""
    said = [process.communicate() for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def pair(mode, file, count=2):
    """`process_pair.py` in processes that SLURM would have started; a context."""
    cluster = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(count)}
    cluster |= {"JAX_COORDINATOR_PORT": str(free_port()), "PYTHONPATH": str(REPOSITORY)}
    commands = [
        (
            ["tests/helpers/process_pair.py", mode, str(file)],
            {**cluster, "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)},
        )
        for index in range(count)
    ]
    return started(commands)


def commands(home, folder, workdir, count, *arguments, devices=1):
    """The command lines of a run of `count` processes."""
    address = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", str(count), PATIENT]
    config = f"tests/helpers/tiny_run.py:{folder}"
    run = ["-m", "capjax.main", "--config", config, "--workdir", workdir]
    environ = environment(home)
    environ["XLA_FLAGS"] = f"{environ['XLA_FLAGS']} {DEVICES}={devices}"
    return [
        (
            [*map(str, run), *arguments, *([*address, f"--process_id={i}"] if count > 1 else [])],
            environ,
        )
        for i in range(count)
    ]


def rows(workdir):
    timed = ("captions_per_second", "step_seconds", "wall_seconds")
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in timed} for row in lines]


@pytest.fixture(scope="module", name="one")
def make_one(folder, tmp_path_factory):
    """The run of one device."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    train(tiny_run.get_config(str(folder)), str(workdir))
    return workdir


@pytest.fixture(scope="module", name="two")
def make_two(home, folder, tmp_path_factory):
    """The run of one process with two devices, and features of its own, not those of one device."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    own = f"--config.dataset.cache_dir={workdir.parent / 'cache'}"
    ((command, environ),) = commands(home, folder, workdir, 1, own, devices=2)
    command_line.call(home, *command[1:], XLA_FLAGS=environ["XLA_FLAGS"])
    return workdir


@pytest.mark.slow(reason="whole trainings in processes of their own")
def test_two_devices_give_the_losses_and_scores_of_one(one, two):
    left, right = rows(one), rows(two)
    assert len(left) == len(right) == 32
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
    # Their own features, which the first computes alone.
    own = f"--config.dataset.cache_dir={tmp_path / 'cache'}"
    with started(commands(home, folder, killed, 2, own)) as running:
        log = killed / "metrics.jsonl"
        while running[1].poll() is None and not (log.exists() and '"step": 7' in log.read_text()):
            time.sleep(0.005)
        running[1].kill()
        statuses = [status for status, _, _ in finish(running)]
    assert statuses[0] != 0  # It did not wait for ever, nor go on alone.
    again = commands(home, folder, killed, 2, own, "--config.evaluation.num_samples=1")
    with started(again) as running:
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


def test_processes_agree_and_stop_at_the_same_step(tmp_path):
    """Started as by SLURM; SIGTERM to one of them."""
    with pair("agree", tmp_path / "file", 2) as running:
        done = finish(running)
    assert [status for status, _, _ in done] == [75] * 2, done
    assert "said by one alone" in done[0][1]
    assert [output for _, output, _ in done[1:]] == [""]


@pytest.fixture(scope="module", name="ended")
def make_ended(tmp_path_factory):
    """What pairs said of which one process failed or died; they wait at the same time."""
    file = tmp_path_factory.mktemp("pairs") / "file"
    with pair("error", file) as failed, pair("death", file) as killed:
        return finish(failed), finish(killed)


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
