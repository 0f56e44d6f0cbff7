"""Reference libraries, or a skip that says how to have them."""

import os

import pytest

from benchmarks.torchvision_operators import declare_operators

_HINT = "is not installed: pip install capjax[parity]"


def need_torch():
    """torch; declares what torchvision, where there is one, will look for."""
    torch = pytest.importorskip("torch", reason=f"torch {_HINT}")
    declare_operators()
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # Workers share the cores, and threads of small models wait.
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


def need_peft():
    """peft, which imports transformers."""
    need_transformers()
    return pytest.importorskip("peft", reason=f"peft {_HINT}")
