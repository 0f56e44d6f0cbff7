"""Declares the torch operators that torchvision requires on import."""

import functools
import importlib.util

# torchvision's wheel has them compiled for a single build of torch, but looks up all of them on
# import. Only detection uses them.
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


@functools.cache  # Keeps the library, with which its operators would vanish.
def declare_operators():
    """Makes torchvision importable with any build of torch."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
        for operator in _OPERATORS:
            library.define(operator)
    return library
