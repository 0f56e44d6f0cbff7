"""Reference libraries, or a skip that says how to have them."""

import functools
import importlib.util

import pytest

_HINT = "is not installed: pip install capjax[parity]"

# torchvision's ordinary wheel has them compiled for one build of torch alone, and names them all
# when it is imported. Only detection has need of them.
_OPERATORS = (
    "nms(Tensor a, Tensor b, float c) -> Tensor",
    "qnms(Tensor a, Tensor b, float c) -> Tensor",
    "qroi_align(Tensor a) -> Tensor",
    *(
        f"{name}(Tensor a) -> Tensor"
        for kind in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")
        for name in (kind, f"_{kind}_backward")
    ),
)


def need_torch():
    """torch; declares what torchvision, where there is one, will look for."""
    torch = pytest.importorskip("torch", reason=f"torch {_HINT}")
    _declare_operators()
    return torch


def need_torchvision():
    """torchvision beside any torch of its release."""
    need_torch()
    return pytest.importorskip("torchvision", reason=f"torchvision {_HINT}")


def need_transformers():
    """transformers, which imports torchvision where there is one."""
    need_torch()
    return pytest.importorskip("transformers", reason=f"transformers {_HINT}")


def need_timm():
    """timm, which imports torchvision."""
    need_torchvision()
    return pytest.importorskip("timm", reason=f"timm {_HINT}")


@functools.cache  # And so kept: an operator goes with its library.
def _declare_operators():
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
        for operator in _OPERATORS:
            library.define(operator)
    return library
