"""GIT on your own images: the data of `folder_transformer`, the model of `coco_git`.

    capjax train --config folder_git --config.dataset.file=captions.csv
    capjax train --config folder_git:SOURCE --config.dataset.file=captions.csv
    capjax train --config folder_git:lora --config.dataset.file=captions.csv

SOURCE and "lora" are as in `coco_git`.
"""

from configs import coco_git, folder_vit_gpt2


def get_config(source: str = coco_git.SOURCE):
    """`source` is a GIT for images, with "lora:" before it for adapters."""
    return folder_vit_gpt2.of_folder(coco_git.get_config(source))
