"""Data parallelism; the only file that uses `pmap` and `shard_map`.

A per-device function sees its share of a batch and communicates by `psum` only. A "sharded" tree
has leaves [local devices, per device, ...]; a "replicated" tree has equal leaves
[local devices, ...]. In a run of several processes (`processes`) each process holds the data of its
own devices, and all must run the same mapped functions in the same order.
"""

import collections
import ctypes
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
Tree = Any


def compilation_cache(directory: str) -> None:
    """Sets the folder where programs are kept between starts, see `programs`; "" keeps none."""
    if directory:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(directory))
        # JAX's second is for each program, and a training has several below it.
        least = "jax_persistent_cache_min_compile_time_secs"
        jax.config.update(least, min(0.2, jax.config.values[least]))


def map_devices(function: Callable, *, donate: tuple[int, ...] = ()) -> Callable:
    """Maps `function` over all devices; arguments get a leading axis of local devices.

    Args:
      function: takes per-device arguments; can call `psum` and `device_index`.
      donate: positions of arguments whose buffers are donated to the result.
    """
    if jax.process_count() == 1:
        return compiled(on_each(function), donate=donate)
    _trim_after_compiling()
    # It joins the arrays of several processes, and takes no options for XLA.
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate)


# XLA has two libraries of convolutions for CPUs, and this option leaves one of them out. With it an
# image of InceptionV3 took 113 ms instead of 180, and one of the embedded default 1.2 instead of
# 1.7 ms, in training 0.88 of the time; MobileNets took as long as before (benchmarks/README.md).
WITHOUT_YNN_CONVOLUTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options for XLA that make programs quicker on these devices; none where it lacks them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=WITHOUT_YNN_CONVOLUTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # A jaxlib that does not know it.
        return {}
    return WITHOUT_YNN_CONVOLUTIONS


def map_step(step: Callable) -> Callable:
    """Maps a training step (state, batch) -> (state, metrics); the state's buffers are donated."""
    return map_devices(step, donate=(0,))


# Of what runs once. The first parameters of the embedded default are compiled in 6 s instead of 11,
# and are the same bits; at level 0 they are not.
_RUNS_ONCE = {"xla_backend_optimization_level": 1}


def compiled(
    function: Callable, *, donate: tuple[int, ...] = (), runs_once: bool = False
) -> Callable:
    """`jax.jit` with XLA's options, and trimmed memory."""
    _trim_after_compiling()
    options: dict[str, Any] = dict(compiler_options())
    if runs_once and jax.default_backend() == "cpu":
        options |= _RUNS_ONCE
    return jax.jit(function, donate_argnums=donate, compiler_options=options)


@functools.cache
def _trim_after_compiling() -> None:
    """From now on what compiling a large program has freed, hundreds of MiB, is the system's."""
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Of glibc, which would keep it.

    def after(event: str, duration_secs: float, **_: str | int) -> None:
        if trim is not None and event.endswith("backend_compile_duration") and duration_secs > 1:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)


def map_local(function: Callable) -> Callable:
    """Maps `function` over the devices of this process only.

    What it has compiled is freed with it, which `pmap` keeps as long as the process.
    """
    return compiled(on_each(function))


def on_each(function: Callable) -> Callable:
    """`function` on each device of this process, not compiled."""

    def on_device(*arguments: Tree) -> Tree:
        own = function(*jax.tree.map(lambda x: jax.lax.squeeze(x, [0]), arguments))
        return jax.tree.map(lambda x: jax.lax.expand_dims(x, [0]), own)

    mesh, spec = Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS)
    return jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def has_cudnn() -> bool:
    """True if the devices are NVIDIA GPUs."""
    if jax.default_backend() != "gpu":
        return False
    return "rocm" not in jax.local_devices()[0].client.platform_version.lower()


def psum(tree: Tree) -> Tree:
    """Sums over all devices of all processes, inside a mapped function."""
    if jax.lax.axis_size(AXIS) == 1:
        return tree  # XLA would copy it.
    return jax.lax.psum(tree, AXIS)


def device_index() -> jax.Array:
    """Index of the device inside a mapped function, int32 scalar."""
    return jax.lax.axis_index(AXIS)


def _sharding() -> NamedSharding:
    """One slice of [local devices, ...] on each device."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))


def replicate(tree: Tree, *, donate: bool = False) -> Tree:
    """Copies every leaf to every local device.

    With `donate` a single device takes over the leaves that are on it. Otherwise on CPUs the copy
    can share their memory, and a function to which it is donated makes another one.
    """
    count = jax.local_device_count()
    if donate and count == 1:
        leaves, structure = jax.tree.flatten(tree)
        # An array that is there twice, as the policy that training starts from, is given away once.
        own = {id(leaf): leaf for leaf in leaves}
        place = {name: position for position, name in enumerate(own)}
        places = [place[id(leaf)] for leaf in leaves]

        def expand(own: list[Any]) -> list[Any]:
            return [jax.lax.expand_dims(own[position], [0]) for position in places]

        expand = jax.jit(expand, donate_argnums=0, out_shardings=_sharding())
        return jax.tree.unflatten(structure, expand(list(own.values())))
    tree = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (count, *np.shape(x))), tree)
    return jax.device_put(tree, _sharding())


def unreplicate(tree: Tree) -> Tree:
    """Returns one copy of a replicated tree, as NumPy arrays on the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)


def shard(batch: Tree) -> Tree:
    """Splits leaves [B, ...] of the batch of this process over its devices."""
    count = jax.local_device_count()
    split = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
    return jax.device_put(split, _sharding())


def unshard(tree: Tree) -> Tree:
    """Joins leaves [local devices, per device, ...] to NumPy arrays [B, ...]."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)


def gather(tree: Tree) -> Tree:
    """Joins NumPy leaves [B, ...] of all processes to [processes * B, ...] in each process."""
    return multihost_utils.process_allgather(tree, tiled=True)


def prefetch(batches: Iterable[Tree], ahead: int = 2) -> Iterator[Tree]:
    """Shards batches to the devices `ahead` batches early, so that copies overlap compute."""
    batches = iter(batches)
    queue = collections.deque(shard(batch) for batch in itertools.islice(batches, ahead))
    while queue:
        yield queue.popleft()
        queue.extend(shard(batch) for batch in itertools.islice(batches, 1))
