import jax
import jax.numpy as jnp

from capjax.train.profiler import Profiler


def test_a_few_steps_are_traced(tmp_path):
    begun = []
    profiler = Profiler(str(tmp_path / "trace"), 2)
    for step in range(14):
        profiler.before()
        begun += [step] if (tmp_path / "trace").exists() else []
        profiler.after(jax.block_until_ready(jnp.ones(3) + step))
    profiler.close(None)
    assert len(list((tmp_path / "trace").rglob("*.xplane.pb"))) == 1
    assert begun == [12, 13]
    # A training that ends before, and one that traces nothing.
    for steps in (0, 5):
        short = Profiler(str(tmp_path / "none"), steps)
        for _ in range(3):
            short.before()
            short.after(None)
        short.close(None)
    assert not (tmp_path / "none").exists()
