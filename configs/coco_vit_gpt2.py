"""ViT and GPT-2 on COCO, as in VisionEncoderDecoder of transformers.

    capjax train --config coco_vit_gpt2
    capjax train --config coco_vit_gpt2:ydshieh/vit-gpt2-coco-en
    capjax train --config coco_vit_gpt2:VIT,GPT2
    capjax train --config coco_vit_gpt2:self_critical
    capjax train --config coco_vit_gpt2:lora

The first starts from two checkpoints, google/vit-base-patch16-224-in21k and openai-community/gpt2,
with randomly initialised cross-attention; the third does so from any two. The second fine-tunes a
captioner. The fourth starts from the best checkpoint of the first and trains by CIDEr-D
(`docs/self_critical.md`). The last trains low-rank adapters of that captioner alone (Hu et al.
2021), or of another, "lora:SOURCE". Each is a name on huggingface.co, or a folder with a slash or a
dot in its path (./vit). Otherwise all parameters train; --config.encoder.trainable='()' freezes the
ViT, and --config.decoder.frozen=True freezes GPT-2's own layers.
"""

from configs import base

FIRST_STAGE = "runs/coco_vit_gpt2"
CAPTIONER = "ydshieh/vit-gpt2-coco-en"
_PARTS = "google/vit-base-patch16-224-in21k,openai-community/gpt2"


def get_config(source: str = _PARTS):
    """`source` is a captioner, a ViT and a GPT-2 with a comma between, or "self_critical".

    "lora:" before a captioner is for adapters.
    """
    lora, source = base.split_lora(source, CAPTIONER)
    is_second, source = source == "self_critical", _PARTS if source == "self_critical" else source
    config = base.get_config()
    config.dataset = base.tfds_dataset("coco_captions")
    config.dataset.over_length = "cut"
    config.dataset.num_threads = 16
    vit, comma, gpt2 = source.partition(",")
    if comma:
        base.use_encoder(config, vit)
        base.use_gpt2(config, gpt2)
        # As in the examples of transformers.
        config.decoding.num_beams = 4
        config.decoding.max_length = 24
    else:
        base.use_captioner(config, source)
    config.dataset.max_length = min(32, config.decoder.max_length)
    config.encoder.trainable = ("all",)
    config.encoder.cache = ""
    config.dtype = "bfloat16"

    # 320 captions; an epoch of 113,287 images is 1,770 steps.
    config.batch_size = 64
    config.num_steps = 8850
    config.label_smoothing = 0.1
    config.optimizer.learning_rate = 5e-5
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 500
    config.optimizer.b2 = 0.999
    config.eval_every = 885
    config.evaluation.batch_size = 64
    if is_second:
        base.use_self_critical(config, FIRST_STAGE)
        # An epoch.
        config.num_steps, config.eval_every = 1770, 590
        config.optimizer.learning_rate = 5e-6
        config.optimizer.warmup_steps = 100
    if lora:
        base.use_lora(config)
    return config
