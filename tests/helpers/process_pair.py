"""Run by test_processes.py: one of several processes, which does what the first argument says."""

import os
import signal
import sys

import jax
import numpy as np

from capjax.parallel import devices, processes


def agree():
    """What one process says to others; ends by SIGTERM to the last, with status 75."""
    index, count = processes.index(), processes.count()
    assert (jax.process_index(), jax.process_count()) == (index, count)
    assert processes.broadcast_from_primary(lambda: {"value": 0.1, "index": index}) == {
        "value": 0.1,
        "index": 0,
    }
    with processes.primary_first():
        file = sys.argv[2]
        assert os.path.exists(file) == (index > 0)
        if processes.is_primary():
            open(file, "w").close()
    processes.check_equal("numbers", lambda: (1, 2))
    rows = devices.gather({"rows": np.arange(3) + 10 * index, "ok": np.array([index == 1] * 3)})
    assert rows["rows"].tolist() == [10 * i + k for i in range(count) for k in range(3)]
    assert rows["ok"].tolist() == [i == 1 for i in range(count) for _ in range(3)]
    # Of the first alone: what is local waits for nobody.
    double = devices.map_local(lambda x: 2 * x)
    if index == 0:
        assert devices.unreplicate(double(devices.replicate(np.ones(2)))).tolist() == [2, 2]
    add = devices.map_devices(devices.psum)
    for step in range(1, 10**6):
        total = add(devices.replicate(np.float32(index + 1)))
        assert devices.unreplicate(total) == count * (count + 1) / 2
        if step == 5 and index == count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if processes.asked_to_stop(step):
            assert processes.broadcast_from_primary(lambda step=step: step) == step
            sys.exit(75)


def error():
    """The last process can't go on while the others wait for it."""
    if processes.index() == processes.count() - 1:
        sys.exit("error: there is no such file")


def death():
    """The last process is killed while they compute together."""
    add = devices.map_devices(devices.psum)
    for step in range(10**6):
        devices.unreplicate(add(devices.replicate(np.float32(1))))
        if step == 5 and processes.index() == processes.count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def unequal():
    processes.check_equal("numbers", processes.index)


if __name__ == "__main__":
    processes.start(automatic=True, timeout=3600)  # The tests play SLURM.
    print("said by one alone")
    with processes.propagate_errors():
        globals()[sys.argv[1]]()
