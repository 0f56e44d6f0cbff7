"""The main COCO config: a transformer captioner over a pretrained CNN, on Karpathy's splits.

    capjax train --config coco_transformer
    capjax train --config coco_transformer:karpathy \
        --config.dataset.file=dataset_coco.json --config.dataset.root=coco

    capjax train --config coco_transformer:self_critical

The first reads `coco_captions` from TFDS, the second your images and Karpathy's JSON file.
`:coco_json` reads COCO's own caption files. The last starts from the best checkpoint of the first
and trains by CIDEr-D (`docs/self_critical.md`); `:karpathy,self_critical` that of the second.
"""

from configs import base

_DATASETS = {
    "tfds": lambda: base.tfds_dataset("coco_captions"),
    "karpathy": base.karpathy_dataset,
    "coco_json": base.coco_json_dataset,
}


def get_config(dataset: str = "tfds"):
    """A frozen MobileNetV2 (14 GB of features), three layers on each side, 15 epochs.

    `dataset` is a dataset, "self_critical" for the second stage, or both with a comma between.
    """
    dataset, _, stage = dataset.partition(",")
    if dataset == "self_critical":
        dataset, stage = "tfds", dataset
    if dataset not in _DATASETS:
        raise ValueError(f"the dataset is {dataset}; it must be one of {', '.join(_DATASETS)}")
    if stage not in ("", "self_critical"):
        raise ValueError(f"the stage is {stage!r}; it must be 'self_critical'")
    config = base.get_config()
    config.dataset = _DATASETS[dataset]()
    config.dataset.image_size = 224
    config.dataset.max_length = 22
    config.dataset.over_length = "cut"
    config.dataset.num_threads = 16
    # The usual COCO vocabulary: words seen five times or more (Karpathy and Fei-Fei 2015).
    config.tokenizer.min_count = 5

    config.encoder = base.mobilenet_v2()
    config.adapter = base.adapter()
    config.adapter.width = 512
    config.adapter.depth = 3
    config.adapter.num_heads = 8
    config.decoder.width = 512
    config.decoder.num_layers = 3
    config.decoder.num_heads = 8
    config.dtype = "bfloat16"

    config.batch_size = 256
    # 113,287 images: 442.5 steps an epoch.
    config.num_steps = 6640
    config.ema_decay = 0.999
    config.label_smoothing = 0.1
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 1000
    config.optimizer.weight_decay = 0.05
    config.eval_every = 664
    config.checkpoint_every = 332
    config.early_stopping.patience = 3
    config.evaluation.batch_size = 128
    # 20 words, and the start and end tokens.
    config.decoding.max_length = 22
    if stage:
        _self_critical(config, "" if dataset == "tfds" else f"_{dataset}")
    return config


def _self_critical(config, suffix: str) -> None:
    """Five epochs of CIDEr-D."""
    base.use_self_critical(config, f"runs/coco_transformer{suffix}")
    # After label smoothing, samples at temperature 1 are far worse than greedy captions.
    config.objective.temperature = 0.7
    config.num_steps = 2215
    config.eval_every, config.checkpoint_every = 443, 0
    config.ema_decay = 0.99
    config.optimizer.learning_rate = 3e-5
    config.optimizer.warmup_steps = 100
