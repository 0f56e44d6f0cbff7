"""ViT and GPT-2 on your own images: the data of `folder_transformer`, the model of `coco_vit_gpt2`.

    capjax train --config folder_vit_gpt2 --config.dataset.file=captions.csv
    capjax train --config folder_vit_gpt2:SOURCE --config.dataset.file=captions.csv
    capjax train --config folder_vit_gpt2:lora --config.dataset.file=captions.csv

The first fine-tunes a published captioner, the last its low-rank adapters. SOURCE is another
captioner, or a ViT and a GPT-2, as in `coco_vit_gpt2`.
"""

from configs import base, coco_vit_gpt2


def get_config(source: str = coco_vit_gpt2.CAPTIONER):
    """`source` is as in `coco_vit_gpt2`."""
    return of_folder(coco_vit_gpt2.get_config(source))


def of_folder(config):
    """The config of training on COCO with the data of a folder, and fewer steps."""
    of_coco, config.dataset = config.dataset, base.folder_dataset()
    common = [name for name in of_coco if name != "name" and name in config.dataset]
    config.dataset.update({name: of_coco[name] for name in common})
    config.dataset.num_threads = 4
    config.batch_size = 8
    config.num_steps = 2000
    config.optimizer.warmup_steps = 100
    config.log_every = 10
    config.eval_every = 200
    config.early_stopping.patience = 3
    return config
