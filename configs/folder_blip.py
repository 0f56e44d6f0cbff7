"""BLIP on your own images: the data of `folder_transformer`, the model of `coco_blip`.

    capjax train --config folder_blip --config.dataset.file=captions.csv
    capjax train --config folder_blip:SOURCE --config.dataset.file=captions.csv
    capjax train --config folder_blip:lora --config.dataset.file=captions.csv

SOURCE and "lora" are as in `coco_blip`. There is no prompt, since your captions may be of another
style or language: --config.prompt='a photo of' --config.decoding.prompt='a photo of' puts one
before each.
"""

from configs import coco_blip, folder_vit_gpt2


def get_config(source: str = coco_blip.SOURCE):
    """`source` is a BLIP that captions, with "lora:" before it for adapters."""
    return folder_vit_gpt2.of_folder(coco_blip.fine_tuned(source, coco_blip.SOURCE))
