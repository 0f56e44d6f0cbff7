"""Processors, devices and versions, on which a run's last bits depend beside config and data.

XLA sums in another order on another number of processors, and another version of anything may.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from capjax.evaluate.results import code_version


def describe() -> dict[str, Any]:
    """Processors that this process may use, devices, and versions."""
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
    """The changes since `describe` gave `began`, in one line; "" where there are none."""
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
