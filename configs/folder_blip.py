"""BLIP on your own images: the data of `folder_transformer`, the model of `coco_blip`.

    capjax train --config folder_blip --config.dataset.file=captions.csv
    capjax train --config folder_blip:SOURCE --config.dataset.file=captions.csv
    capjax train --config folder_blip:lora --config.dataset.file=captions.csv

SOURCE and "lora" are as in `coco_blip`.
"""

from configs import coco_blip, folder_vit_gpt2


def get_config(source: str = coco_blip.SOURCE):
    """`source` is a BLIP that captions, with "lora:" before it for adapters."""
    return folder_vit_gpt2.of_folder(coco_blip.get_config(source))
