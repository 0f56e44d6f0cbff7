"""What torchvision looks for in torch when it is imported."""

import functools
import importlib.util

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


@functools.cache  # And so kept: an operator goes with its library.
def declare_operators():
    """Lets torchvision be imported beside the torch there is."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
        for operator in _OPERATORS:
            library.define(operator)
    return library
