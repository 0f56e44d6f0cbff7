"""A user's sweep file over `small_configs`: the sweep of archives/sweep.tar.xz. It stays."""

from experiments.variants import Sweep, Variant
from tests.compatibility import small_configs


def get_config():
    config = small_configs.vit_frozen()
    config.num_steps = config.eval_every = 20
    return config


def get_sweep():
    return Sweep(
        config=get_config,
        variants=[Variant("plain"), Variant("wide", {"decoder.width": 16})],
        evaluations={"greedy": {"num_beams": 1}, "beam3": {}},
        baseline="plain",
        seeds=(0,),
    )
