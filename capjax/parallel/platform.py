"""The platform that a program is traced for, where its best form depends on it."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def on_cpu() -> bool:
    """True if what is being traced is for CPUs: by `traced_for`, otherwise by the devices here."""
    return (_platform.get() or jax.default_backend()) == "cpu"


def choose(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """Calls `cpu` where the program runs on CPUs, else `default`; for ONNX, always `default`."""
    if _platform.get() == "onnx":  # It has no such choice.
        return default(*operands)
    return jax.lax.platform_dependent(*operands, cpu=cpu, default=default)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """What is traced within is for a platform, which need not be here: "cpu", "gpu", "onnx" ..."""
    before = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(before)
