"""Traced programs, kept between starts beside those that JAX compiled.

JAX finds a compiled program by the traced one, and tracing a model takes seconds. A traced program
is found here by all that it is made from: the model, the shapes of the arguments, the code of
capjax, and the versions and settings of what traces it; code that is replaced while a process runs
is not seen. A program holds no weights.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import io
import itertools
import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
from flax import traverse_util
from jax import export

from capjax.files.atomic import write_atomic
from capjax.parallel import devices

Tree = Any

# Calls of cuDNN's attention, which JAX may change: a name has the version of JAX.
_FUSED = ("", "ScaleBias"), ("", "Dropout"), ("", "Backward")
_CHECKS = [
    export.DisabledSafetyCheck.custom_call(f"__cudnn$fmha{bias}Softmax{dropout}{backward}")
    for bias, dropout, backward in itertools.product(*_FUSED)
]

_SUM = 32  # Bytes of a SHA-256 digest, with which a file begins.

# Packages whose code a program's name has: of capjax as it is, of others by their versions.
_NAMED = {"capjax", "flax", "jax", "jaxlib", "ml_dtypes", "numpy", *sys.stdlib_module_names}


def kept_in() -> str:
    """The folder of `devices.compilation_cache`; "" if nothing is kept."""
    return jax.config.values["jax_compilation_cache_dir"] or ""


def map_local(function: Callable, made_from: Any) -> Callable:
    """`devices.map_local` of a function whose traced programs are kept.

    Args:
      function: of pytrees of arrays, to dictionaries, lists and tuples of arrays. It must not use
        other devices.
      made_from: all that it depends on besides its arguments' shapes, their structure, and code.
        It is pickled for its name. Parts of a user's own have code that no name has: programs made
        from them are not kept.
    """
    return _keeping(function, made_from)


def map_devices(function: Callable, made_from: Any, *, donate: bool = False) -> Callable:
    """`devices.map_devices` likewise, of a function that can use all devices.

    With `donate` the buffers of the first argument are donated to the result.
    """
    if jax.process_count() > 1:  # What is exported has the devices of one process.
        return devices.map_devices(function, donate=(0,) * donate)
    return _keeping(function, made_from, donate=donate)


def map_step(step: Callable, made_from: Any) -> Callable:
    """`devices.map_step` likewise; the state after a step has the structure of that before."""
    mapped: dict[Any, Callable] = {}

    def call(state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        leaves, structure = jax.tree.flatten(state)
        if structure not in mapped:

            def on_leaves(leaves: list[jax.Array], batch: Tree) -> Tree:
                after, metrics = step(jax.tree.unflatten(structure, leaves), batch)
                return jax.tree.leaves(after), metrics

            # Lists, since JAX can't write the nodes of optimizers.
            made = made_from, str(structure)
            mapped[structure] = map_devices(on_leaves, made, donate=True)
        leaves, metrics = mapped[structure](leaves, batch)
        return jax.tree.unflatten(structure, leaves), metrics

    return call


def _keeping(function: Callable, made_from: Any, *, donate: bool = False) -> Callable:
    """`function` on each device of this process, with its traced programs kept."""
    mapped: dict[Any, Callable] = {}

    def call(*arguments: Tree) -> Tree:
        first, structure = jax.tree.flatten(arguments[0])
        others, form = jax.tree.flatten(arguments[1:])
        # Each step comes here, so that it asks no type for its name, which is slow.
        key = structure, form, *((leaf.shape, leaf.dtype) for leaf in (*first, *others))
        if key not in mapped:

            def on_leaves(first: list[jax.Array], others: list[jax.Array]) -> Tree:
                return function(
                    jax.tree.unflatten(structure, first), *jax.tree.unflatten(form, others)
                )

            shapes = tuple((leaf.shape, leaf.dtype.name) for leaf in (*first, *others))
            named = str(structure), str(form), shapes, jax.local_device_count()
            name = _name("program", made_from, named)
            program = _program(devices.on_each(on_leaves), name, (first, others))
            mapped[key] = devices.compiled(program, donate=(0,) * donate)
        return mapped[key](first, others)

    return call


def run(function: Callable, made_from: Any, *arguments: jax.Array) -> Tree:
    """Compiles and runs a function of arrays to nested dictionaries; its traced program is kept."""
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in arguments]
    program = _program(function, _name("run", made_from, shapes), arguments)
    return devices.compiled(program, runs_once=True)(*arguments)


def shapes_of(make: Callable[[], Tree], made_from: Any) -> Tree:
    """`jax.eval_shape` of a function that makes nested dictionaries; `made_from` as above."""

    def trace() -> bytes:
        flat = traverse_util.flatten_dict(jax.eval_shape(make), sep="/")
        return json.dumps({name: (x.shape, x.dtype.name) for name, x in flat.items()}).encode()

    flat = json.loads(_kept(_name("shapes", made_from), trace))
    shapes = {name: jax.ShapeDtypeStruct(tuple(s), dtype) for name, (s, dtype) in flat.items()}
    return traverse_util.unflatten_dict(shapes, sep="/")


def text_of(make: Callable[[], str], made_from: Any) -> str:
    """A text that is found by tracing; `made_from` as above."""
    return _kept(_name("text", made_from), lambda: make().encode()).decode()


def _program(function: Callable, name: str, arguments: Any) -> Callable:
    """What is kept of a function under a name, made where it is missing; or the function."""

    def trace() -> bytes:
        likes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
            arguments,
        )
        try:
            return bytes(
                export.export(jax.jit(function), disabled_checks=_CHECKS)(*likes).serialize()
            )
        except (ValueError, TypeError, NotImplementedError):
            return b""  # JAX can't write it.

    # As JAX, which keeps what takes a second to compile, or, in a server, nothing of its clients.
    least = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    content = _kept(name, trace, least) if name else b""
    if not content:
        return function
    program = export.deserialize(bytearray(content))
    if b"lapack" not in content:
        # Before it calls a program for CPUs JAX imports SciPy, for LAPACK, in a third of a second.
        checks = (*program.disabled_safety_checks, export.DisabledSafetyCheck.platform())
        program = dataclasses.replace(program, platforms=("",), disabled_safety_checks=checks)
    return program.call


def _kept(name: str, make: Callable[[], bytes], least: float = 0.0) -> bytes:
    """The content of a file, made where it is missing or damaged; always made without a name.

    It is written if making it took `least` seconds.
    """
    if not name:
        return make()
    with contextlib.suppress(OSError):
        stored = Path(name).read_bytes()
        if hashlib.sha256(stored[_SUM:]).digest() == stored[:_SUM]:
            return stored[_SUM:]
    start = time.monotonic()
    content = make()
    if time.monotonic() - start >= least:
        with contextlib.suppress(OSError):  # A folder that can't be written is as none.
            write_atomic(name, hashlib.sha256(content).digest() + content)
    return content


def _name(kind: str, *made_from: Any) -> str:
    """The file of a program; "" if it can't be kept."""
    if not (folder := kept_in()):
        return ""
    written = io.BytesIO()
    try:
        _Pickler(written).dump(made_from)
    except (pickle.PicklingError, TypeError, AttributeError):
        return ""
    digest = hashlib.sha256(f"{_traced_by()} ".encode() + written.getvalue()).hexdigest()
    return os.path.join(folder, f"capjax-{digest}.{kind}")


class _Pickler(pickle.Pickler):
    """Writes values for their digest, and dataclasses by their fields alone."""

    def reducer_override(self, value: Any) -> Any:
        package = (getattr(value, "__module__", None) or "builtins").partition(".")[0]
        if package not in _NAMED:
            raise pickle.PicklingError(f"the name of a program does not have the code of {package}")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            return type(value), tuple(getattr(value, f.name) for f in fields if f.name != "parent")
        return NotImplemented


def _traced_by() -> str:
    """The code of capjax, versions, settings and the device."""
    others = _version("einops"), _version("optax")
    versions = (jax.__version__, jaxlib.__version__, flax.__version__, np.__version__, *others)
    device = jax.local_devices()[0]
    where = (device.platform, device.device_kind, device.client.platform_version)
    cache = ("jax_compilation_cache", "jax_persistent_cache")
    settings = [pair for pair in jax.config.values.items() if not pair[0].startswith(cache)]
    return repr((_code(), versions, where, sorted(settings)))


@functools.cache
def _version(package: str) -> str:
    # By its metadata where it has some, since a server has no use of an optimizer.
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return importlib.import_module(package).__version__


@functools.cache
def _code() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
