"""Data parallelism: the one file that says `pmap`.

A per-device function sees its own share of a batch and talks to the others by `psum` alone. A
"sharded" tree has leaves [local devices, per device, ...]; a "replicated" one has leaves
[local devices, ...], all equal. Of several processes (`processes`) each holds what its own devices
have, and all run the same mapped functions in the same order.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
Tree = Any


def map_devices(function: Callable, *, donate: tuple[int, ...] = ()) -> Callable:
    """`function` compiled for every device, over arguments with a leading axis of local devices.

    Args:
      function: of per-device arguments; may call `psum` and `device_index`.
      donate: positions of arguments whose buffers the result may reuse.
    """
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate)


def map_local(function: Callable) -> Callable:
    """`map_devices` over this process's devices alone, for what needs no other process."""
    return jax.pmap(function, axis_name=AXIS, devices=jax.local_devices())


def psum(tree: Tree) -> Tree:
    """The sum over all devices of all processes, inside a mapped function."""
    if jax.lax.axis_size(AXIS) == 1:
        return tree  # XLA would copy it.
    return jax.lax.psum(tree, AXIS)


def device_index() -> jax.Array:
    """Which device this is, inside a mapped function: int32 scalar."""
    return jax.lax.axis_index(AXIS)


def _put(tree: Tree) -> Tree:
    """Moves leaves [local devices, ...] to the devices, one slice each."""
    devices = jax.local_devices()
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    return jax.device_put(tree, sharding)


def replicate(tree: Tree) -> Tree:
    """A copy of every leaf on every local device."""
    count = jax.local_device_count()
    return _put(jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (count, *np.shape(x))), tree))


def unreplicate(tree: Tree) -> Tree:
    """One copy of a replicated tree, as NumPy arrays on the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)


def shard(batch: Tree) -> Tree:
    """Splits leaves [b, ...] of this process's batch over its devices."""
    count = jax.local_device_count()
    return _put(jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch))


def unshard(tree: Tree) -> Tree:
    """Joins leaves [local devices, per device, ...] to NumPy arrays [b, ...]."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)


def gather(tree: Tree) -> Tree:
    """Joins NumPy leaves [b, ...] of all processes to [processes * b, ...], in all of them."""
    return multihost_utils.process_allgather(tree, tiled=True)


def prefetch(batches: Iterable[Tree], ahead: int = 2) -> Iterator[Tree]:
    """Shards batches to the devices `ahead` of their use, so that copies overlap compute."""
    batches = iter(batches)
    queue = collections.deque(shard(batch) for batch in itertools.islice(batches, ahead))
    while queue:
        yield queue.popleft()
        queue.extend(shard(batch) for batch in itertools.islice(batches, 1))
