"""BLIP fine-tuned on COCO.

    capjax train --config coco_blip
    capjax train --config coco_blip:SOURCE
    capjax train --config coco_blip:lora
    capjax train --config coco_blip:lora:SOURCE

The first starts from Salesforce/blip-image-captioning-base. SOURCE is another name on
huggingface.co, or a folder with a slash or a dot in its path (./blip). All parameters train;
--config.encoder.trainable='()' freezes the ViT. With "lora", low-rank adapters train alone (Hu et
al. 2021).
"""

from configs import base

SOURCE = "Salesforce/blip-image-captioning-base"


def get_config(source: str = SOURCE):
    """`source` is a BLIP that captions, with "lora:" before it for adapters."""
    config = fine_tuned(source, SOURCE)
    # As configs/caption_coco.yaml of github.com/salesforce/BLIP, and models/med.py: the published
    # base scores CIDEr 133.3 so, and the large one, with a rate of 2e-6, 136.7 (Li et al. 2022).
    config.prompt = config.decoding.prompt = "a picture of"
    config.label_smoothing = 0.1
    config.decoding.max_length = min(20, config.decoder.max_length)
    config.decoding.min_length = 5
    # As data/__init__.py there, which also draws colours and rotations.
    config.dataset.crop_area = 0.5
    config.dataset.flip = True
    return config


def fine_tuned(argument: str, usual: str):
    """The config of training a captioner of transformers on COCO, with BLIP's optimizer.

    `argument` is that of `get_config`, and `usual` its source where it names none.
    """
    lora, source = base.split_lora(argument, usual)
    config = base.get_config()
    config.dataset = base.tfds_dataset("coco_captions")
    config.dataset.over_length = "cut"
    config.dataset.num_threads = 16
    # Few widths of a batch's text: each is compiled, which takes as long as many steps.
    config.dataset.length_bucket = 32
    base.use_captioner(config, source)
    config.decoding.num_beams = 3
    config.decoding.max_length = min(21, config.decoder.max_length)
    config.dataset.max_length = min(40, config.decoder.max_length)
    config.encoder.trainable = ("all",)
    config.encoder.cache = ""
    config.dtype = "bfloat16"

    # 320 captions, where BLIP has 32 on each of 8 GPUs; its five epochs of 113,287 images.
    config.batch_size = 64
    config.num_steps = 8850
    config.optimizer.learning_rate = 1e-5
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 500
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.999
    config.eval_every = 885
    config.evaluation.batch_size = 64
    if lora:
        base.use_lora(config)
    return config
