"""GIT fine-tuned on COCO, with the training of `coco_blip`.

    capjax train --config coco_git
    capjax train --config coco_git:SOURCE
    capjax train --config coco_git:lora
    capjax train --config coco_git:lora:SOURCE

The first starts from microsoft/git-base. SOURCE is another name on huggingface.co, or a folder with
a slash or a dot in its path (./git). All parameters train; --config.encoder.trainable='()' freezes
the ViT.
"""

from configs import base, coco_blip

SOURCE = "microsoft/git-base"


def get_config(source: str = SOURCE):
    """`source` is a GIT for images, with "lora:" before it for adapters."""
    lora, source = base.split_lora(source, SOURCE)
    config = coco_blip.get_config(f"lora:{source}" if lora else source)
    # As Wang et al. 2022.
    config.label_smoothing = 0.1
    config.decoding.num_beams = 4
    config.decoding.length_penalty = 0.6
    return config
