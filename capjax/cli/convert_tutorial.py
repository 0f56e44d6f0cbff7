r"""Writes the PyTorch Show-Attend-Tell tutorial's checkpoint as plain tensors, before its import.

capjax convert-tutorial \
    BEST_checkpoint_coco_5_cap_per_img_5_min_word_freq.pth.tar \
    --to tutorial.safetensors --i_trust_this_file

The tutorial (github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning) saves whole pickled
modules. Reading such a file executes code that it contains: only do so if you trust its author. The
written file holds tensors alone, and `capjax.pretrained.captioners.show_attend_tell` reads it. This
command needs torch and torchvision.
"""

import argparse
import contextlib
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from capjax.cli.errors import Parser, reported
from capjax.cli.log import show_log
from capjax.cli.process import run_command
from capjax.files.atomic import write_atomic
from capjax.pretrained.errors import WeightsError

# The converted parts of a checkpoint; its optimizers and counters are dropped.
PARTS = ("encoder", "decoder")
# Classes of the tutorial's models.py, which its pickles name.
_CLASSES = ("Encoder", "DecoderWithAttention", "Attention")
_FLAG = "--i_trust_this_file"


def read_checkpoint(path: str | os.PathLike, *, trusted: bool) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint, by name, for example "decoder.fc.weight".

    Args:
      path: a dict saved by torch.save, whose "encoder" and "decoder" are modules or state dicts.
      trusted: permits executing the file, which whole modules need and state dicts do not.

    Raises:
      WeightsError: the file must be executed and is not trusted, is not such a checkpoint, or
        torch or torchvision is missing.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such checkpoint")
    checkpoint = _load(path, trusted)
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path}: is not a checkpoint of the tutorial: it must be a dict")
    missing = [part for part in PARTS if part not in checkpoint]
    if missing:
        raise WeightsError(
            f"{path}: is not a checkpoint of the tutorial: it has no {' and no '.join(missing)}, "
            f"only {', '.join(map(str, checkpoint)) or 'nothing'}"
        )
    return {
        f"{part}.{name}": array
        for part in PARTS
        for name, array in _arrays(checkpoint[part], f"{path}: its {part}").items()
    }


def _load(path: str, trusted: bool) -> Any:
    """Loads the file by torch's reader of plain tensors, or by executing it where that fails."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"reading the checkpoint needs torch: {error}. Install it (pip install torch "
            "torchvision), or convert the file on a machine that has it"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for unknown content.
        if not trusted:
            raise WeightsError(
                f"{path}: holds more than plain tensors, or is no torch file. The tutorial's "
                "checkpoint holds whole pickled modules, and reading these executes code of the "
                f"file. If you trust its author, add {_FLAG}"
            ) from error
    try:
        with _tutorial_classes(torch.nn.Module), warnings.catch_warnings():
            # torch compares the classes' source with the file's; the stand-ins have none.
            warnings.filterwarnings("ignore", message="Couldn't retrieve source code")
            warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)
            return torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "torchvision":
            raise WeightsError(
                f"{path}: its encoder is a torchvision model, and torchvision is not installed. "
                "Install it (pip install torchvision), or convert the file on a machine that has "
                "it"
            ) from error
        raise WeightsError(f"{path}: needs {error.name}, which is not installed") from error
    except Exception as error:  # A damaged pickle may raise anything.
        raise WeightsError(f"{path}: is no checkpoint that torch can read: {error}") from error


@contextlib.contextmanager
def _tutorial_classes(base: type) -> Iterator[None]:
    """Provides empty classes of the tutorial's module `models` while a pickle is read.

    They replace any other module of that name for this time.
    """
    module = types.ModuleType("models")
    for name in _CLASSES:
        setattr(module, name, type(name, (base,), {"__module__": "models"}))
    before = sys.modules.get("models")
    sys.modules["models"] = module
    try:
        yield
    finally:
        del sys.modules["models"]
        if before is not None:
            sys.modules["models"] = before


def _arrays(part: Any, where: str) -> dict[str, np.ndarray]:
    """The arrays of a module or a state dict."""
    import torch

    state = part.state_dict() if isinstance(part, torch.nn.Module) else part
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise WeightsError(f"{where} is neither a module nor a dict of tensors")
    return {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in state.items()}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(prog="capjax convert-tutorial", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="the tutorial's .pth.tar file")
    parser.add_argument("--to", required=True, help="the .safetensors file to write")
    parser.add_argument(
        _FLAG, action="store_true", help="permit executing the file, which reading modules needs"
    )
    arguments = parser.parse_args(argv)
    if not arguments.to.endswith(".safetensors"):
        parser.error(f"--to {arguments.to} must end in .safetensors")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Reads the flags and converts; returns the exit status."""
    show_log()
    arguments = parse_arguments(argv)
    with reported():
        arrays = read_checkpoint(arguments.checkpoint, trusted=arguments.i_trust_this_file)
        write_atomic(arguments.to, safetensors.numpy.save(arrays))
    counts = [sum(name.startswith(f"{part}.") for name in arrays) for part in PARTS]
    size = sum(array.nbytes for array in arrays.values())
    print(
        f"wrote {arguments.to}: {counts[0]} tensors of the encoder and {counts[1]} of the decoder, "
        f"{size / 1e6:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
