"""Named tensors of torch models: safetensors, or torch's own files read as arrays."""

import contextlib
import os
from collections.abc import Iterator

import ml_dtypes  # noqa: F401 -- teaches NumPy bfloat16, which safetensors files may hold.
import numpy as np
import safetensors

from capjax.pretrained.errors import WeightsError
from capjax.pretrained.weights import blamed, check_claim, check_names, check_zip

# A tensor may be a view that repeats what is stored, and tensors may share it.
_MOST_TIMES = 4

TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict, by name.

    Args:
      path: a `.safetensors` file, or a `.pth`, `.pt` or `.bin` of torch, which needs torch. Of a
        torch file no code is executed: one that holds more than tensors is refused.

    Raises:
      WeightsError: there is no such file, it is damaged or holds something else, or torch is not
        installed.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such weights file")
    if path.endswith(".safetensors"):
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if path.endswith(TORCH_SUFFIXES):
        return _read_torch(path)
    raise WeightsError(
        f"{path}: is neither a .safetensors file nor one of torch ({', '.join(TORCH_SUFFIXES)})"
    )


def read_shapes(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of the tensors, by name; of a `.safetensors` file by its header alone.

    Raises:
      WeightsError: as `read_tensors`.
    """
    path = os.fspath(path)
    if not path.endswith(".safetensors"):
        return {name: array.shape for name, array in read_tensors(path).items()}
    with _opened(path) as file:
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Reads the metadata of a `.safetensors` file.

    Raises:
      WeightsError: as `read_tensors`.
    """
    with _opened(os.fspath(path)) as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _opened(path: str) -> Iterator[safetensors.safe_open]:
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such weights file")
    what = "is no safetensors file, or a damaged one"
    check_names(path)
    with blamed(path, what), safetensors.safe_open(path, "numpy") as file:
        yield file


def need_torch(path: str) -> None:
    """Raises WeightsError where torch, which alone reads this file, is missing or unsafe."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: is a torch file, and torch is not installed: {error}. Install it "
            "(pip install torch), or give the same weights as .safetensors"
        ) from error
    # Before, a crafted file could execute code in spite of weights_only (CVE-2025-32434).
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise WeightsError(
            f"{path}: is a torch file, and torch {torch.__version__} may execute what is in it. "
            "Install torch 2.6 or later, or give the same weights as .safetensors"
        )


def _read_torch(path: str) -> dict[str, np.ndarray]:
    need_torch(path)
    import torch

    check_zip(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged pickle raises anything; torch advises to execute it.
        raise WeightsError(
            f"{path}: is no torch file, or a damaged one, or holds more than tensors, which this "
            f"does not execute ({type(error).__name__}). Save model.state_dict() where the model "
            "is trusted"
        ) from error
    if isinstance(found, dict) and found.keys() == {"model"}:
        found = found["model"]  # As Meta saves DeiT.
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in found.items()
    ):
        holds = ", ".join(map(str, list(found)[:8])) if isinstance(found, dict) else type(found)
        raise WeightsError(f"{path}: is no state dict, names with tensors; it holds {holds}")
    with blamed(path, "holds more than plain tensors"):
        claimed = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        check_claim(claimed, path, most=_MOST_TIMES)
        # NumPy knows no bfloat16.
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
            for name, tensor in found.items()
        }
