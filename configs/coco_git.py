"""GIT fine-tuned on COCO, with the training of `coco_blip`.

    capjax train --config coco_git
    capjax train --config coco_git:SOURCE

The first starts from microsoft/git-base. SOURCE is another name on huggingface.co, or a folder with
a slash or a dot in its path (./git). All parameters train; --config.encoder.trainable='()' freezes
the ViT.
"""

from configs import coco_blip


def get_config(source: str = "microsoft/git-base"):
    """`source` is a GIT for images."""
    config = coco_blip.get_config(source)
    # As Wang et al. 2022.
    config.label_smoothing = 0.1
    config.decoding.num_beams = 4
    config.decoding.length_penalty = 0.6
    return config
