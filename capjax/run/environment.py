"""Processors, devices and versions, on which the last bits of a run's results depend.

XLA sums in another order on another number of processors, and so may another version of a library.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from capjax.evaluate.results import code_version


def describe() -> dict[str, Any]:
    """Processors available to this process, devices, and versions."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Not on macOS.
    return {
        "processors": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "devices": jax.device_count(),
        "device kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "numpy": np.__version__,
        **code_version(),
    }


def changes(began: Mapping[str, Any]) -> str:
    """The changes since `began`, a result of `describe`, on one line; "" if there are none."""
    now = describe()
    changed = [
        f"{_say(name, now[name])} where the run began with {began[name]}"
        for name in now
        if name in began and now[name] != began[name]
    ]
    if not changed:
        return ""
    return f"continuing with {', '.join(changed)}: results may differ in the last bits"


def _say(name: str, value: Any) -> str:
    return f"{value} {name}" if isinstance(value, int) else f"{name} {value}"
