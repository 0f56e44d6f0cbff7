"""Kills a training process again and again, and compares what comes of it with a run never stopped.

    python -m tests.helpers.kill_campaign --kills 100 --seed 0

A small run on its own pictures (a frozen encoder with cached features, hard attention, dropout, a
moving average, early stopping) is started in real processes and hit at random moments, some drawn
over a start's whole time, some right after it has come to a certain part; each life of the run,
from an empty folder to the end of training, takes several. Most hits are SIGKILL, some SIGTERM.
Then parameters, optimizer state, averages, early stopping, logs, TensorBoard events, figures and
caches must be those of the undisturbed run, bit by bit, and nothing half-written may be left. From
a checkout, since it borrows pictures and weights from the tests.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax.parallel import devices
from capjax.run import train
from capjax.run.workdir import Workdir
from capjax.train.checkpoint import Checkpoints
from capjax.train.events import read_events
from capjax.train.signals import EXIT_STATUS
from capjax.train.validate import Validation
from capjax.train.writer import Writer, read_metrics
from configs import base
from tests.helpers import tiny_run

# Parts of a start and what they call; the number of the part is shared with the killer.
_PARTS = {
    "reading data and building the model": (train, "train"),
    "the first writes": (Workdir, "save"),
    "extracting features": (train, "with_features"),
    "reading a checkpoint": (Checkpoints, "restore_latest"),
    "cutting back logs": (Writer, "__init__"),
    "training steps": (train, "train_loop"),
    "an evaluation": (Validation, "__call__"),
    "the beginning of a save": (Checkpoints, "save"),
    "waiting for a save at the end": (Checkpoints, "close"),
}
_NAMES = ("importing", *_PARTS)
_TIMED = ("captions_per_second", "step_seconds", "wall_seconds")


def small_config(folder: Path) -> ConfigDict:
    """A run of some seconds with all kinds of state, on files that this writes to `folder`."""
    tiny_run.write_folder(folder)
    fields = {"num_steps": 20, "log_every": 5, "eval_every": 5, "checkpoint_every": 2}
    fields |= {"dataset.packed": False, "ema_decay": 0.9, "adapter.dropout": 0.1}
    fields |= {"early_stopping.metric": "loss", "early_stopping.mode": "min"}
    fields |= {"early_stopping.patience": 2}
    fields |= {"evaluation.num_samples": 1, "evaluation.temperatures": (0.5,)}
    config = tiny_run.over_features(folder, fields)
    config.decoder = base.bahdanau_decoder()
    config.decoder.update(width=8, embed_dim=8, attention_dim=8, attention="hard")
    return config


def start(config: ConfigDict, folder: Path, compiled: Path, part) -> None:
    """Trains in a process of its own, which says in `part` where it is."""
    with open(folder / "output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for number, (owner, name) in enumerate(_PARTS.values(), 1):
        setattr(owner, name, _announced(getattr(owner, name), number, part))
    os.chdir(folder)  # So that all runs have the same config.
    config.dataset.cache_dir = "cache"
    devices.compilation_cache(str(compiled))
    train.train(config, str(folder / "run"))


def _announced(function, number, part):
    def wrapper(*arguments, **options):
        before, part.value = part.value, number
        try:
            return function(*arguments, **options)
        finally:
            part.value = before

    return wrapper


class Campaign:
    """Starts, kills and compares.

    Attributes:
      hits: part of the program and signal -> how often it was hit there.
      lives: runs that came to their end, after how many hits each.
      faults: what was not as in the undisturbed run.
    """

    def __init__(self, folder: Path, seed: int):
        """Trains the undisturbed run in `folder`."""
        self.hits, self.lives, self.faults = collections.Counter(), [], []
        self._folder, self._rng = folder, np.random.default_rng(seed)
        # Forked from a process that has imported nearly everything and has started no device.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tensorflow", "capjax.run.train"])
        (folder / "data").mkdir(parents=True)
        self._config = small_config(folder / "data")
        self._whole = folder / "whole"
        self._whole.mkdir()
        begin = time.monotonic()
        if self._start(self._whole)[0]:
            raise RuntimeError((self._whole / "output.txt").read_text())
        # Later starts compile nothing.
        self._seconds = (time.monotonic() - begin) / 2

    def live(self, most: int) -> int:
        """One life of a run with `most` hits at most; returns how many there were."""
        folder = self._folder / f"life{len(self.lives)}"
        folder.mkdir()
        hits = 0
        while True:
            number = None
            if hits < most:
                number = signal.SIGTERM if self._rng.random() < 0.2 else signal.SIGKILL
            status, where = self._start(folder, number)
            if where is not None:
                hits += 1
                self.hits[where, number.name] += 1
                self._check_status(status, number, where, folder)
            elif status:
                self.faults.append(f"a start failed: {(folder / 'output.txt').read_text()}")
                break
            else:
                break
        self.lives.append(hits)
        if not self.faults:
            self.faults += [f"{folder}: {fault}" for fault in differences(self._whole, folder)]
        if not self.faults:
            shutil.rmtree(folder)
        return hits

    def _start(self, folder: Path, number: signal.Signals | None = None) -> tuple[int, str | None]:
        """One start, hit by a signal at some moment; its exit status, and the part it was hit in.

        The part is None where it came to its end before.
        """
        part = self._context.RawValue("i", 0)
        arguments = (self._config, folder, self._folder / "xla", part)
        process = self._context.Process(target=start, args=arguments)
        process.start()
        if number is not None:
            self._wait_for_moment(process, part, folder)
        where = None
        if number is not None and process.is_alive():
            where = _NAMES[part.value]
            os.kill(process.pid, number)
        process.join()
        if where is not None and any((folder / "run" / "checkpoints").glob("*-tmp*")):
            where += ", a save under way"
        if process.exitcode == 0:  # It was past all when the signal came.
            where = None
        return process.exitcode, where

    def _wait_for_moment(self, process, part, folder: Path) -> None:
        if self._rng.random() < 0.5:
            process.join(self._rng.uniform(0, self._seconds))
            return
        saved = any((folder / "run").glob("checkpoints/[0-9]*"))
        never = "the first writes" if saved else "reading a checkpoint"
        wanted = self._rng.choice([name for name in _NAMES[2:] if name != never])
        while process.is_alive() and _NAMES[part.value] != wanted:
            time.sleep(0.0005)
        process.join(self._rng.uniform(0, 0.03))

    def _check_status(self, status: int, number: signal.Signals, where: str, folder: Path) -> None:
        # SIGTERM is caught from `train` on.
        caught = EXIT_STATUS if where != "importing" else -number
        if status not in (-number, caught) or (number == signal.SIGKILL and status != -number):
            self.faults.append(
                f"{number.name} in {where}: exit status {status}\n"
                + (folder / "output.txt").read_text()
            )


def differences(whole: Path, other: Path) -> list[str]:
    """What of a run, and of the features beside it, is not as in another; and what is left over."""
    found = []
    files, others = (_files(folder) for folder in (whole, other))
    for name in sorted(files.keys() | others.keys()):
        if name not in files or name not in others:
            found.append(f"{name} is in one of them only")
        elif files[name].read_bytes() != others[name].read_bytes():
            found.append(f"{name} differs")
    for what, read in (("metrics.jsonl", _rows), ("tensorboard", _events)):
        if read(whole / "run") != read(other / "run"):
            found.append(f"{what} differs")
    sides = [folder / "run" / "checkpoints" for folder in (whole, other)]
    left, right = ({path.name for path in side.iterdir()} for side in sides)
    # SIGTERM saves steps between, and one of them may be the latest but one.
    if max(left, key=int) != max(right, key=int) or len(left & right) < 2:
        found.append(f"checkpoints differ: {left}, {right}")
    for step in sorted(left & right):
        for item in ("params", "optimizer", "ema"):
            if not _equal(*(_values(path / step / item) for path in sides)):
                found.append(f"{item} of step {step} differs")
        said = [json.loads((path / step / "progress/metadata").read_text()) for path in sides]
        if said[0] != said[1]:
            found.append(f"progress of step {step} differs: {said}")
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Files that are to be equal, and those that ought not to be there, by name."""
    found = {}
    for path in filter(Path.is_file, folder.rglob("*")):
        name = path.relative_to(folder)
        if "checkpoints" in name.parts:
            kept = not name.parts[2].isdecimal()
        else:
            # Some are compared in other ways; some have times in them.
            others = ("output.txt", "lock", "metrics.jsonl", "training.png")
            kept = name.name not in others and "tensorboard" not in name.parts
        if kept:
            found[str(name)] = path
    return found


def _rows(folder: Path) -> list[dict]:
    rows = read_metrics(str(folder / "metrics.jsonl"))
    return [{name: row[name] for name in row if name not in _TIMED} for row in rows]


def _events(folder: Path) -> list[tuple]:
    files = sorted((folder / "tensorboard").iterdir())
    values = [
        (event.step, value.tag, value.SerializeToString())
        for file in files
        for _, event in read_events(file)
        for value in event.summary.value
    ]
    return [value for value in values if not value[1].endswith(_TIMED)]


def _values(folder: Path) -> list[np.ndarray]:
    return jax.tree.leaves(ocp.PyTreeCheckpointer().restore(folder))


def _equal(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def main() -> None:
    """Lives as many lives as the kills take, and prints a summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="signals in all (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    kills, seed = (vars(parser.parse_args())[name] for name in ("kills", "seed"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        campaign = Campaign(folder / "campaign", seed)
        bar = stack.enter_context(tqdm(total=kills, unit="kill"))
        # Stopped from the keyboard it tells what it has found so far.
        with contextlib.suppress(KeyboardInterrupt):
            while bar.n < kills and not campaign.faults:
                bar.update(campaign.live(min(12, kills - bar.n)))
    print(f"{sum(campaign.lives)} kills in {len(campaign.lives)} whole runs; all hits:")
    for (where, name), count in sorted(campaign.hits.items()):
        print(f"  {count:4d}  {name}  {where}")
    if campaign.faults:
        sys.exit("error: " + "\n".join(campaign.faults))
    print("all runs ended as one never stopped, bit by bit")


if __name__ == "__main__":
    main()
