"""What is recorded of a run, and how a recorded run is unpacked.

`archives/NAME.tar.xz` holds a folder in which a command was given: images, weights, caches and the
workdir `run`. `archives/NAME.json` says what the code that made it made of it.
"""

import glob
import hashlib
import json
import os
import platform
import tarfile
from collections.abc import Iterable
from pathlib import Path

import flax.traverse_util
import jax
import jaxlib
import numpy as np

import capjax
from tests.compatibility.small_configs import CONFIGS

FOLDER = Path(__file__).parent / "archives"
NAMES = tuple(CONFIGS)

# What is captioned: pictures turned by EXIF, with an alpha channel, and an ordinary one.
IMAGES = ("pictures/turned.jpg", "pictures/alpha.png", "pictures/9.png")
METHODS = {
    "beam": capjax.BeamSearch(3, 1.5, False, 9),
    "greedy": capjax.BeamSearch(1, 1.0, False, 9),
    "sampled": capjax.Sampling(1.0, 9, seed=5),
}
# Needs Java, which not every machine has.
_UNSURE = "METEOR"


def environment() -> dict:
    """What the bits of a run depend on beside the code."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(reversed([line.split("\t: ") for line in lines if "\t: " in line]))
        cpu = " ".join(facts.get(f, "") for f in ("model name", "cpu family\t", "model\t"))
        flags = next((line for line in lines if line.startswith("flags")), "")
        cpu += " " + hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12]
    except OSError:
        pass
    return {
        "cpu": cpu,
        "processors": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def pack(folder: Path, name: str) -> None:
    """Writes a folder's content as `archives/NAME.tar.xz`."""
    with tarfile.open(FOLDER / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name, filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def is_packed(name: str) -> bool:
    """Whether there is an archive of this name."""
    return (FOLDER / f"{name}.tar.xz").exists()


def unpack(name: str, folder: Path) -> None:
    """The content of `archives/NAME.tar.xz` in a folder."""
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")


def record_of(name: str) -> dict:
    """What was recorded of a run."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def write_record(name: str, record: dict) -> None:
    """Writes what is recorded of a run, a line a list of numbers or texts."""
    text = json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n")


def describe_parameters(run: capjax.Run) -> dict:
    """Type and shape of every parameter by its name."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _leaves(run).items()}


def digest_parameters(run: capjax.Run) -> str:
    """SHA-256 over names, types, shapes and bits of the parameters."""
    digest = hashlib.sha256()
    for name, leaf in _leaves(run).items():
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def summarise_parameters(run: capjax.Run) -> dict:
    """Mean and norm of every parameter, for machines of other bits."""
    return {
        name: [float(np.mean(leaf, dtype=np.float64)), float(np.linalg.norm(leaf.ravel()))]
        for name, leaf in _leaves(run).items()
        if not name.startswith("batch_stats/encoder")
    }


def _leaves(run: capjax.Run) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(dict(run.variables), sep="/")
    return {name: np.ascontiguousarray(flat[name]) for name in sorted(flat)}


def caption(run: capjax.Run, labels: Iterable[str] = METHODS) -> dict:
    """What a run says of `IMAGES` by some of `METHODS`, and where it looked."""
    found = {}
    for label in labels:
        method = METHODS[label]
        captions = run.caption(list(IMAGES), method=method, attention=label != "sampled")
        found[label] = [
            {
                "text": caption.text,
                "words": list(caption.words),
                "log_prob": caption.log_prob,
                "score": caption.score,
                "finished": caption.finished,
                "looked": _looked(caption),
            }
            for caption in captions
        ]
    return found


def _looked(caption: capjax.Caption) -> dict | None:
    if caption.attention is None:
        return None
    maps = np.asarray(caption.attention, np.float64)
    return {
        "shape": list(maps.shape),
        "grid": list(caption.grid),
        "prefix": caption.prefix,
        "layers": caption.layers,
        # Of each word, over layers and heads: which tells of a wrong order of words or places.
        "centre": [round(x, 5) for x in (maps @ np.arange(maps.shape[-1])).mean(1).tolist()],
        "square": [round(x, 5) for x in np.square(maps).sum(2).mean(1).tolist()],
    }


def read_evaluation(workdir: str) -> dict:
    """Names of an evaluation's files, its metrics, captions and images' metrics."""
    names = sorted(os.listdir(os.path.join(workdir, "evaluation")))
    (captions,), (metrics,), (images,) = (
        [json.loads(Path(file).read_text()) for file in glob.glob(f"{workdir}/evaluation/*{end}")]
        for end in (".captions.json", ".metrics.json", ".images.json")
    )
    metrics["metrics"].pop(_UNSURE, None)
    return {
        "files": names,
        "keys": sorted(metrics),
        "metrics": metrics["metrics"],
        "source": metrics["source"],
        "tokenizer": metrics["tokenizer"],
        "captions": captions,
        "images": images,
    }


def read_rows(workdir: str) -> list[dict]:
    """The rows of metrics.jsonl, without what is measured by a clock or needs Java."""
    rows = [json.loads(row) for row in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    timed = ("wall_seconds", "captions_per_second", "step_seconds", _UNSURE)
    return [{name: x for name, x in row.items() if name not in timed} for row in rows]


def describe_end(workdir: str) -> dict:
    """Where a run has come to: its checkpoints, the best one, parameters and scalars."""
    latest, best = capjax.load(workdir, "latest"), capjax.load(workdir)
    return {
        "checkpoints": sorted(n for n in os.listdir(f"{workdir}/checkpoints") if n.isdecimal()),
        "best": best.step,
        "sha256": {"latest": digest_parameters(latest), "best": digest_parameters(best)},
        "summary": summarise_parameters(latest),
        "rows": read_rows(workdir),
        "files": sorted(os.listdir(workdir)),
    }
