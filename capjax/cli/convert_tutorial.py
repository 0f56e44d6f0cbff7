r"""Writes the PyTorch Show-Attend-Tell tutorial's checkpoint as plain tensors: needed once.

capjax convert-tutorial \
    BEST_checkpoint_coco_5_cap_per_img_5_min_word_freq.pth.tar \
    --to tutorial.safetensors --i_trust_this_file

The tutorial (github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning) saves whole pickled
modules. Such a file can only be read by executing what it says, which may be anything: do that
where you trust whoever made the file. What is written holds numbers alone, and
`capjax.pretrained.captioners.show_attend_tell` reads it. Needs torch and torchvision; capjax itself
does not.
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

from capjax.cli.errors import reported
from capjax.files.atomic import write_atomic
from capjax.pretrained.weights import WeightsError

# The parts of a checkpoint that are converted; its optimizers and counters are not.
PARTS = ("encoder", "decoder")
# What the tutorial's models.py defines, which its checkpoints call for.
_CLASSES = ("Encoder", "DecoderWithAttention", "Attention")
_FLAG = "--i_trust_this_file"


def read_checkpoint(path: str | os.PathLike, *, trusted: bool) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, by names such as "decoder.fc.weight".

    Args:
      path: a dict saved by torch.save, whose "encoder" and "decoder" are modules or state dicts.
      trusted: whether the file may be executed, which whole modules need; state dicts do not.

    Raises:
      WeightsError: the file would have to be executed and is not trusted, or is no such
        checkpoint, or torch or torchvision is missing.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such checkpoint")
    checkpoint = _load(path, trusted)
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path}: is not a checkpoint of the tutorial, which is a dict")
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
    """The unpickled file: by torch's reader of plain tensors, or executed where that fails."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"torch, which reads the checkpoint, is not installed: {error}. Install it (pip install"
            " torch torchvision), or convert the file on a machine that has it"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what it does not know.
        if not trusted:
            raise WeightsError(
                f"{path}: holds more than plain tensors, or is no torch file. The tutorial's "
                "checkpoint holds whole pickled modules, and reading those executes whatever the "
                f"file says. If you trust whoever made it, add {_FLAG}"
            ) from error
    try:
        with _tutorial_classes(torch.nn.Module), warnings.catch_warnings():
            # Old files keep their classes' source, which the stand-ins do not have.
            warnings.filterwarnings("ignore", message="Couldn't retrieve source code")
            warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)
            return torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "torchvision":
            raise WeightsError(
                f"{path}: its encoder is made of torchvision's classes, and torchvision is not "
                "installed. Install it (pip install torchvision), or convert the file on a machine "
                "that has it"
            ) from error
        raise WeightsError(f"{path}: calls for {error.name}, which is not installed") from error
    except Exception as error:  # Whatever reading a damaged pickle may come to.
        raise WeightsError(f"{path}: is no checkpoint that torch can read: {error}") from error


@contextlib.contextmanager
def _tutorial_classes(base: type) -> Iterator[None]:
    """Lets a pickle find the tutorial's module `models`, as classes that do nothing but hold.

    They stand in for any other module of that common name, and go when it is read.
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
    """The arrays of a module or of a state dict."""
    import torch

    state = part.state_dict() if isinstance(part, torch.nn.Module) else part
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise WeightsError(f"{where} is neither a module nor a dict of tensors")
    return {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in state.items()}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="capjax convert-tutorial", description=__doc__.split("\n")[0]
    )
    parser.add_argument("checkpoint", help="the tutorial's .pth.tar file")
    parser.add_argument("--to", required=True, help="the .safetensors file to write")
    parser.add_argument(
        _FLAG, action="store_true", help="execute the file, as reading whole modules does"
    )
    arguments = parser.parse_args(argv)
    if not arguments.to.endswith(".safetensors"):
        parser.error(f"--to {arguments.to} should end in .safetensors")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Converts one file and says what it wrote."""
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
    sys.exit(main())
