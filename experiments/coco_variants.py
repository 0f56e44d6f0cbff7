"""The COCO config compared with other sizes and decoders.

    python -m experiments.sweep experiments/coco_variants.py
    python -m experiments.sweep experiments/coco_variants.py:karpathy \
        --config.dataset.file=dataset_coco.json --config.dataset.root=coco

The argument is that of `configs/coco_transformer.py`. All runs read one cache of a frozen
MobileNetV2's features. `--commands` prints a command for each run, for a cluster's job array; start
one run first, to fill the cache.
"""

from configs import base, coco_transformer
from experiments.variants import Sweep, Variant, grid, values


def get_sweep(dataset: str = "tfds"):
    """Sizes of the transformer, two other decoders and two regularisers; two seeds."""
    sizes = grid(
        [Variant("width256", _width(256)), Variant("width512")],
        values("decoder.num_layers", (3, 6)),
    )
    others = [
        Variant("gru", _use_gru),
        Variant("gpt2", _use_gpt2),
        Variant("no_smoothing", {"label_smoothing": 0.0}),
        Variant("crops", _use_crops),
    ]
    return Sweep(
        config=lambda: coco_transformer.get_config(dataset),
        variants=[*sizes, *others],
        evaluations={
            "greedy": {"num_beams": 1},
            "beam5": {"num_beams": 5},
            "beam5_short": {"num_beams": 5, "length_penalty": 0.7},
        },
        baseline="width512-num_layers3",
    )


def _width(width: int) -> dict[str, int]:
    return {"decoder.width": width, "adapter.width": width}


def _use_gru(config):
    config.dataset.packed = False
    config.decoder = base.bahdanau_decoder()
    config.decoder.cell = "gru"


def _use_gpt2(config):
    """GPT-2 from scratch, with the baseline's width and layers."""
    config.decoder = base.gpt2_decoder()
    config.decoder.update(width=512, num_layers=3, num_heads=8, max_length=32)


def _use_crops(config):
    """Adds features of two crops of each image, 28 GB."""
    config.dataset.crop_area = 0.5
    config.encoder.cache_views = 3
