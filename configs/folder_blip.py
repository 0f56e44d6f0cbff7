"""BLIP on your own images: the data of `folder_transformer`, the model of `coco_blip`.

    capjax train --config folder_blip --config.dataset.file=captions.csv
    capjax train --config folder_blip:SOURCE --config.dataset.file=captions.csv

SOURCE is as in `coco_blip`.
"""

from configs import coco_blip, folder_vit_gpt2


def get_config(source: str = "Salesforce/blip-image-captioning-base"):
    """`source` is a BLIP that captions."""
    return folder_vit_gpt2.of_folder(coco_blip.get_config(source))
