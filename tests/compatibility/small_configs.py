"""Config files of a user, one a name: --config tests/compatibility/small_configs.py:NAME.

They were written at the commit that made the runs of `archives/`, and stay as they are: a user's
own config, built on `configs.base`, must go on giving the fields of its run. Paths start from the
folder of the unpacked run, in which the commands are given.
"""

from configs import base, shapes_transformer, shapes_vit_gpt2


def get_config(name: str):
    """The config of the run `archives/NAME.tar.xz`."""
    return CONFIGS[name]()


def _small(config):
    """What is the same in all runs: sixty short steps, with an evaluation after forty."""
    config.batch_size = 4
    config.num_steps = 60
    config.eval_every = 40
    config.log_every = 5
    config.optimizer.learning_rate = 0.03
    config.optimizer.warmup_steps = 5
    config.evaluation.batch_size = 2
    config.evaluation.num_samples = 0
    config.decoding.num_beams = 3
    config.decoding.max_length = 9
    config.dataset.num_threads = 1
    config.decoder.dropout = 0.1
    return config


def _folder():
    config = base.get_config()
    config.dataset = base.folder_dataset()
    config.dataset.file = "pictures/captions.csv"
    config.dataset.cache_dir = "cache"
    config.dataset.image_size = 32
    config.dataset.max_length = 10
    config.dataset.length_bucket = 4
    return _small(config)


def conv_transformer():
    """Packed captions, crops and flips, label smoothing; some words are unknown."""
    config = _folder()
    config.encoder = base.conv_encoder()
    config.encoder.update(widths=(8, 8), blocks=1, stem_stride=4)
    config.decoder.update(width=8, num_layers=1, num_heads=2)
    config.dataset.crop_area = 0.5
    config.dataset.flip = True
    config.dataset.captions_per_image = 2
    config.tokenizer.min_count = 2
    config.label_smoothing = 0.1
    config.eval_every = 20
    return config


def patch_transformer():
    """Padded captions, a class token, two layers with tied embeddings, an average, microbatches."""
    config = _folder()
    config.encoder = base.patch_encoder()
    config.encoder.update(patch_size=8, width=8, depth=1, num_heads=2, class_token=True)
    config.decoder.update(width=8, num_layers=2, num_heads=2, norm="post", tie_embeddings=True)
    config.dataset.packed = False
    config.dataset.over_length = "cut"
    config.dataset.resize_to, config.dataset.keep_aspect = 40, True
    config.dataset.interpolation = "bicubic"
    config.accumulate = 2
    config.ema_decay = 0.9
    config.optimizer.clip_value = 0.5
    return config


def gru():
    """A gate, a deep output layer, frozen word vectors, the penalty, some of its own words."""
    config = _folder()
    config.encoder = base.conv_encoder()
    config.encoder.update(widths=(8,), blocks=1, stem_stride=8)
    config.decoder = base.bahdanau_decoder()
    config.decoder.update(cell="gru", width=8, embed_dim=6, attention_dim=8, dropout=0.1)
    config.decoder.update(gate="scalar", output="deep", embedding_dropout=0.1)
    config.word_vectors.file, config.word_vectors.frozen = "vectors.txt", True
    config.attention_penalty = 0.5
    config.scheduled_sampling.kind = "linear"
    config.scheduled_sampling.slope = 0.01
    return config


def lstm_hard():
    """Drawn positions with their baseline, and an average; the loss says what is best."""
    config = _folder()
    config.encoder = base.conv_encoder()
    config.encoder.update(widths=(8,), blocks=1, stem_stride=8, positions="learned")
    config.decoder = base.bahdanau_decoder()
    config.decoder.update(width=8, embed_dim=8, attention_dim=8, dropout=0.1, attention="hard")
    config.decoder.update(gate="vector", output="hidden", attention_activation="relu")
    config.ema_decay = 0.9
    config.early_stopping.metric, config.early_stopping.mode = "loss", "min"
    config.eval_every, config.checkpoint_every = 20, 10
    return config


def vit_gpt2():
    """The parts of `shapes_vit_gpt2`, smaller."""
    config = shapes_vit_gpt2.get_config()
    config.dataset = _folder().dataset
    config.early_stopping.metric = "CIDEr-D"
    config.encoder.update(patch_size=8, width=8, depth=1, num_heads=2)
    config.decoder.update(width=8, num_layers=1, num_heads=2, max_length=12)
    return _small(config)


def mobilenet_frozen():
    """A frozen encoder whose features lie in the cache, of whole images and of crops."""
    config = _folder()
    _mobilenet(config)
    config.dataset.crop_area = 0.5
    config.encoder.cache_views = 2
    config.ema_decay = 0.95
    return config


def mobilenet_tuned():
    """The last parts of the encoder train, with a rate and a beginning of their own."""
    config = _folder()
    _mobilenet(config)
    config.encoder.trainable, config.encoder.cache = ("block_16", "Conv_1"), ""
    config.optimizer.encoder_learning_rate = 0.001
    config.optimizer.encoder_start_step = 10
    return config


def _mobilenet(config) -> None:
    config.encoder = base.mobilenet_v2()
    config.encoder.update(weights="small.weights.h5", alpha=0.05)
    config.dataset.image_size = 64
    config.adapter = base.adapter()
    config.adapter.update(width=8, depth=1, num_heads=2)
    config.decoder.update(width=8, num_layers=1, num_heads=2)


def started():
    """A decoder and words from `first`, a run of `conv_transformer`; the encoder is fresh."""
    config = conv_transformer()
    config.init_from, config.init_parts = "first", ("decoder",)
    config.seed = 1
    return config


def shapes():
    """The embedded default, smaller, in bfloat16."""
    config = _small(shapes_transformer.get_config())
    # What the default had.
    config.optimizer, config.decoding = base.get_config().optimizer, base.get_config().decoding
    config.decoding.update(num_beams=3, max_length=9)
    config.dataset.length_bucket, config.ema_decay = 8, 0.998
    config.optimizer.update(learning_rate=0.03, warmup_steps=5)
    config.dataset.data_dir, config.dataset.cache_dir = "data", ""
    config.dataset.image_size = 32
    config.encoder = base.conv_encoder()
    config.encoder.update(widths=(8, 8, 8), blocks=1, stem_stride=2)
    config.decoder.update(width=8, num_layers=1, num_heads=2)
    config.dtype = "bfloat16"
    config.decoding.max_length = 20
    return config


def vit_frozen():
    """A ViT of a `.safetensors` that `capjax.convert_encoder` wrote, cached in bfloat16."""
    config = _folder()
    base.use_encoder(config, "./vit.safetensors")
    config.encoder.cache = "bfloat16"
    config.adapter = base.adapter()
    config.adapter.update(width=8, depth=0, num_heads=2)
    config.decoder.update(width=8, num_layers=1, num_heads=2)
    return config


CONFIGS = {
    make.__name__: make
    for make in (
        conv_transformer,
        patch_transformer,
        gru,
        lstm_hard,
        vit_gpt2,
        mobilenet_frozen,
        mobilenet_tuned,
        started,
        shapes,
        vit_frozen,
    )
}
