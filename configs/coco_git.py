"""GIT fine-tuned on COCO, with the optimizer of `coco_blip`.

    capjax train --config coco_git
    capjax train --config coco_git:SOURCE
    capjax train --config coco_git:lora
    capjax train --config coco_git:lora:SOURCE

The first starts from microsoft/git-base. SOURCE is another name on huggingface.co, or a folder with
a slash or a dot in its path (./git). All parameters train; --config.encoder.trainable='()' freezes
the ViT.
"""

from configs import coco_blip

SOURCE = "microsoft/git-base"


def get_config(source: str = SOURCE):
    """`source` is a GIT for images, with "lora:" before it for adapters."""
    config = coco_blip.fine_tuned(source, SOURCE)
    # As generativeimage2text/model.py and layers/decoder.py of
    # github.com/microsoft/GenerativeImage2Text, whose search divides by ((5 + n) / 6) ** 0.6:
    # decoding.length_normalization = "gnmt", which transformers has not. GIT base so scores CIDEr
    # 131.4, and GIT large 138.5 (its README).
    config.label_smoothing = 0.1
    config.decoding.num_beams = 4
    config.decoding.length_penalty = 0.6
    return config
