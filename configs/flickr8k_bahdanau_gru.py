"""InceptionV3 features and a GRU with additive attention: the Keras captioner on Flickr8k.

    capjax train --config flickr8k_bahdanau_gru --config.dataset.root=flickr8k
    capjax train --config flickr8k_bahdanau_gru:mobilenet_v2 ...
    capjax train --config flickr8k_bahdanau_gru:self_critical ...

Sizes, learning rate and vocabulary are those of TensorFlow's notebook "Image captioning with visual
attention" (2018), which the Keras articles on Flickr8k and on COCO follow: a dense layer of 256
with ReLU over the features, embeddings of 256, attention and GRU of 512, two dense layers above,
the 5,000 most frequent words, Adam at 1e-3, 20 epochs, no dropout. Three things differ: the GRU's
state passes from word to word (the notebook resets the GRU at each word and gives the last state to
the attention alone), all captions of an image train together, and the best checkpoint by CIDEr-D is
kept. The last command starts from that of the first and trains by CIDEr-D
(`docs/self_critical.md`).
"""

from configs import base

FIRST_STAGE = "runs/flickr8k_bahdanau_gru"


def get_config(variant: str = "inception_v3"):
    """The config of an encoder, or of a second stage.

    `variant` is "inception_v3", "mobilenet_v2", whose features cost a tenth, or "self_critical"
    after the first.
    """
    config = base.get_config()
    config.dataset = base.flickr8k_dataset()
    if variant != "self_critical":
        return with_gru(config, variant)
    config = with_gru(config, "inception_v3")
    self_critical(config, FIRST_STAGE)
    # Three epochs.
    config.num_steps, config.eval_every = 1125, 375
    return config


def self_critical(config, first_stage: str) -> None:
    """Sets up training by CIDEr-D, but for its length, after a first stage."""
    base.use_self_critical(config, first_stage)
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 50
    # In the first stage it guards against overfitting.
    config.early_stopping.patience = 0


def with_gru(config, encoder: str):
    """Sets up the same system on the dataset of a config."""
    encoders = {"inception_v3": (base.inception_v3, 299), "mobilenet_v2": (base.mobilenet_v2, 224)}
    if encoder not in encoders:
        raise ValueError(f"the encoder is {encoder!r}; it must be one of {', '.join(encoders)}")
    make_encoder, config.dataset.image_size = encoders[encoder]
    config.encoder = make_encoder()
    config.dataset.max_length = 30
    config.dataset.over_length = "cut"
    config.dataset.packed = False
    config.dataset.length_bucket = 4
    config.tokenizer.max_words = 5000

    config.adapter = base.adapter()
    config.adapter.width = 256
    config.adapter.norms = False
    config.adapter.activation = "relu"
    config.adapter.positions = "none"
    config.adapter.dropout = 0.0

    config.decoder = base.bahdanau_decoder()
    config.decoder.cell = "gru"
    config.decoder.embed_dim = 256
    config.decoder.initial_state = "zero"
    config.decoder.output = "hidden"
    config.decoder.dropout = 0.0

    # 16 images with 5 captions; the notebook has 64 captions.
    config.batch_size = 16
    # 20 epochs of 375 steps.
    config.num_steps = 7500
    config.eval_every = 750
    config.log_every = 50
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 0.0
    config.early_stopping.patience = 4
    config.decoding.max_length = 30
    return config
