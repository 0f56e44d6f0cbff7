"""ResNet-101 and an LSTM with soft attention: the PyTorch Show-Attend-Tell tutorial, on COCO.

    capjax train --config coco_show_attend_tell \
        --config.dataset.file=dataset_coco.json --config.dataset.root=coco
    capjax train --config coco_show_attend_tell:fine_tune \
        --config.dataset.file=dataset_coco.json --config.dataset.root=coco

Sizes, rates and stages are those of sgrvinod's "a PyTorch Tutorial to Image Captioning" (2018):
features pooled to 14x14x2048, 512 for embeddings, attention and LSTM, dropout 0.5, Adam at 4e-4
(the encoder's 1e-4), gradients clipped to 5 by value, doubly stochastic attention of weight 1,
words seen five times, 5 beams. The tutorial selects checkpoints by BLEU-4 under teacher forcing;
this config by BLEU-4 of decoded captions. The second stage starts from the best checkpoint of the
first and also trains the encoder's blocks 2 to 4, at a constant rate; the tutorial multiplies it by
0.8 after eight epochs without a better score. `:self_critical` starts from the same checkpoint and
trains by CIDEr-D (`docs/self_critical.md`), which the tutorial does not.
"""

from configs import base

FIRST_STAGE = "runs/coco_show_attend_tell"


def get_config(stage: str = "frozen"):
    """`stage` is "frozen", "fine_tune" or "self_critical"."""
    if stage not in ("frozen", "fine_tune", "self_critical"):
        raise ValueError(
            f"the stage is {stage!r}; it must be 'frozen', 'fine_tune' or 'self_critical'"
        )
    config = base.get_config()
    config.dataset = base.karpathy_dataset()
    config.dataset.image_size = 256
    # 50 words and the end token.
    config.dataset.max_length = 51
    config.dataset.packed = False
    config.dataset.length_bucket = 4
    config.tokenizer.min_count = 5

    config.encoder = base.resnet()
    config.encoder.grid = 14
    # Features of 113,000 images would take 90 GB.
    config.encoder.cache = ""
    config.decoder = base.bahdanau_decoder()
    config.decoder.attention_activation = "relu"
    config.decoder.gate = "vector"
    config.attention_penalty = 1.0

    # 80 captions, 5 per image; an epoch is 7,080 steps.
    config.batch_size = 16
    config.num_steps = 141_600
    config.eval_every = 7080
    config.log_every = 100
    config.optimizer.learning_rate = 4e-4
    config.optimizer.encoder_learning_rate = 1e-4
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 0.0
    config.optimizer.clip_value = 5.0
    config.early_stopping.metric = "BLEU-4"
    config.early_stopping.patience = 20
    config.decoding.num_beams = 5
    config.decoding.max_length = 51
    if stage == "fine_tune":
        config.init_from = FIRST_STAGE
        config.encoder.trainable = ("layer2", "layer3", "layer4")
        # 40 captions; the tutorial has 32. An epoch is 14,160 steps.
        config.batch_size = 8
        config.num_steps, config.eval_every = 283_200, 14_160
    if stage == "self_critical":
        self_critical(config, FIRST_STAGE)
        # Three epochs.
        config.num_steps, config.eval_every = 21_240, 7080
    return config


def self_critical(config, first_stage: str) -> None:
    """Sets up training by CIDEr-D, but for its length, after a first stage."""
    base.use_self_critical(config, first_stage)
    config.early_stopping.metric, config.early_stopping.patience = "CIDEr-D", 0
    config.optimizer.learning_rate = 2e-5
    config.optimizer.warmup_steps = 100
