# ruff: noqa: E402
"""Makes the recorded runs, with the code of commit c32e60f. Kept to say how they were made.

    git worktree add ../c32e60f c32e60f
    PYTHONPATH=../c32e60f python tests/compatibility/make_runs.py [NAME ...]

Each is trained to step 40 of 60 and then killed at step 45: the archive has that run. A copy of it
is captioned with, evaluated and continued to its end, and what comes of that is recorded. Where
there is an archive, it is recorded anew, as for other flags of XLA. Of `lstm_hard` the checkpoint
of step 30, which was not evaluated, was taken out of the archive to save room.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

# As in the tests, whose conftest.py sets them.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# Modules of this folder come from here, all others by PYTHONPATH.
sys.path.append(str(Path(__file__).parents[2]))
# And in the processes of a sweep.
os.environ["PYTHONPATH"] = os.pathsep.join([os.environ["PYTHONPATH"], sys.path[-1]])

import h5py
import jax
import numpy as np
from PIL import Image

import tests

tests.__path__.append(str(Path(__file__).parents[1]))

import capjax
from capjax.data.shapes import builder
from capjax.pretrained.export import export
from capjax.train.writer import Writer
from experiments import sweep
from tests import small_files, small_weights
from tests.compatibility import runs, small_configs
from tests.compatibility.entry import evaluate, train

KILLED_AT = 45
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 200)}
SHAPES = ("square", "bar", "disc")


class Killed(Exception):
    """Takes the place of a kill."""


def write_pictures(folder: Path) -> None:
    """Twelve pictures, one turned by EXIF, one with an alpha channel and one of one channel."""
    folder.mkdir()
    rows = ["image,caption,split"]
    for number in range(12):
        colour, shape = list(COLOURS)[number % 3], SHAPES[number // 3 % 3]
        image = Image.fromarray(_draw(number, COLOURS[colour], shape))
        name = f"{number}.png"
        if number == 10:
            name, exif = "turned.jpg", Image.Exif()
            exif[0x0112] = 6
            image.save(folder / name, exif=exif, quality=80)
        elif number == 11:
            name = "alpha.png"
            image.putalpha(Image.linear_gradient("L").resize(image.size))
            image.save(folder / name)
        elif number == 3:
            image.convert("L").save(folder / name)
        else:
            image.save(folder / name)
        split = "validation" if number >= 9 else "test" if number == 8 else "train"
        side = "left" if number % 2 else "right"
        rows += [
            f"{name},A {colour} {shape}.,{split}",
            f'{name},"There is a {colour} {shape}, on the {side}!",{split}',
            f"{name},the {shape} isn't {list(COLOURS)[(number + 1) % 3]},{split}",
        ]
        if number == 5:
            rows.append(
                f"{name},a very long caption of a {colour} {shape} of five rare words,train"
            )
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


def _draw(number: int, colour: tuple[int, int, int], shape: str) -> np.ndarray:
    rng = np.random.default_rng(number)
    height, width = ((72, 90), (64, 64), (100, 60))[number % 3]
    down, right = np.mgrid[:height, :width]
    shade = (down * 160 // height + right * 60 // width)[..., None]
    pixels = np.broadcast_to(shade, (height, width, 3)).astype(np.uint8).copy()
    x, y = (rng.integers(20, size - 20) for size in (width, height))
    there = {
        "square": (abs(right - x) < 14) & (abs(down - y) < 14),
        "bar": (abs(right - x) < 20) & (abs(down - y) < 5),
        "disc": (right - x) ** 2 + (down - y) ** 2 < 240,
    }[shape]
    pixels[there] = colour
    # Of single pixels, which a resize that skips some does not see.
    pixels[::3, ::4] = 255 - pixels[::3, ::4]
    return pixels


def write_vectors(file: Path) -> None:
    """Word vectors of some of the words."""
    rng = np.random.default_rng(1)
    words = ("a", "red", "blue", "green", "square", "disc", "the", "there", "unseen")
    rows = [" ".join([word, *(f"{x:.3f}" for x in rng.normal(size=6))]) for word in words]
    file.write_text("\n".join(rows) + "\n")


def write_mobilenet(file: Path) -> None:
    """The weights of `tests.small_weights`, of less width, rounded so that they pack well."""
    small_weights.ALPHA = 0.05
    small_weights.write_small_weights(file)
    with h5py.File(file, "r+") as opened:
        opened.visititems(lambda _, item: _round(item) if isinstance(item, h5py.Dataset) else None)


def _round(item: h5py.Dataset) -> None:
    values = item[()]
    step = max(float(np.abs(values).max()) / 8, 1e-6)
    item[...] = np.maximum(np.round(values / step), 1 if values.min() > 0 else -99) * step


def prepare(name: str) -> None:
    """What a run needs beside its config, in the current folder."""
    write_pictures(Path("pictures"))
    if name == "gru":
        write_vectors(Path("vectors.txt"))
    elif name.startswith("mobilenet"):
        write_mobilenet(Path("small.weights.h5"))
    elif name in ("vit_frozen", "sweep"):
        with tempfile.TemporaryDirectory() as folder:
            small_files.write_own(Path(folder, "vit.safetensors"))
            shutil.copy(Path(folder, "vit.safetensors"), ".")
    elif name == "shapes":
        # As if these were the sizes that it always had; whoever finds it there asks no more.
        whole = builder.SPLIT_SIZES
        builder.SPLIT_SIZES = {"train": 16, "validation": 4, "test": 2, "heldout": 2}
        builder.prepare("data", builder.SPLIT_SIZES)
        builder.SPLIT_SIZES = whole
    elif name == "started":
        train_killed(small_configs.get_config("conv_transformer"), "first")


def train_killed(config, workdir: str) -> None:
    """Trains a run and leaves it as a kill after step `KILLED_AT` would."""
    scalars = Writer.scalars

    def write(writer, step, group, values):
        scalars(writer, step, group, values)
        if step == KILLED_AT:
            raise Killed

    Writer.scalars = write
    try:
        with contextlib.suppress(Killed):
            train(config, workdir)
    finally:
        Writer.scalars = scalars


def make_run(name: str) -> None:
    """A run, unless there is one, and its record."""
    before = {}
    if runs.is_packed(name):
        before = runs.record_of(name)
        runs.unpack(name, Path("."))
    else:
        prepare(name)
        train_killed(small_configs.get_config(name), "run")
        if name == "started":
            shutil.rmtree("first")
        runs.pack(Path("."), name)
    config = small_configs.get_config(name)
    run = capjax.load("run")
    record = {
        "environment": runs.environment(),
        "config": config.to_dict(),
        "step": run.step,
        "words": run.tokenizer.vocab_size,
        "parameters": runs.describe_parameters(run),
        "sha256": runs.digest_parameters(run),
        "captions": runs.caption(run),
    }
    evaluate(config, "run", split="validation", checkpoint="best")
    record["evaluation"] = runs.read_evaluation("run")
    if before:  # Its fingerprint of `shapes` was of files' bytes, which unpacking changes.
        record["evaluation"]["source"] = before["evaluation"]["source"]
    train(config, "run")
    record["end"] = runs.describe_end("run")
    runs.write_record(name, record)
    if name == "vit_gpt2":
        make_exported()


def make_exported() -> None:
    """A captioner of transformers, as the export of a run writes it, unless there is one."""
    folder = Path("../exported")
    folder.mkdir()
    if runs.is_packed("exported"):
        runs.unpack("exported", folder)
    else:
        export("run", str(folder / "captioner"))
        shutil.copytree("pictures", folder / "pictures")
        runs.pack(folder, "exported")
    os.chdir(folder)
    run = capjax.load("captioner")
    record = {"environment": runs.environment(), "config": run.config.to_dict()}
    record |= {"parameters": runs.describe_parameters(run), "sha256": runs.digest_parameters(run)}
    runs.write_record("exported", record | {"captions": runs.caption(run)})


def make_sweep() -> None:
    """A finished sweep of two runs."""
    prepare("sweep")
    sys.argv = ["sweep", str(Path(__file__).parent / "small_sweep.py"), "--workdir", "sweep"]
    with contextlib.suppress(SystemExit):
        sweep.main()
    runs.pack(Path("."), "sweep")


def main() -> None:
    """Makes the runs named, or all."""
    for name in sys.argv[1:] or (*runs.NAMES, "sweep"):
        print(f"===== {name}", flush=True)
        jax.clear_caches()
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(f"{folder}/here")
            with contextlib.chdir(f"{folder}/here"):
                make_sweep() if name == "sweep" else make_run(name)


if __name__ == "__main__":
    main()
