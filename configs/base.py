"""Every field of a config, with one comment each. Other configs import this and override fields.

A function makes each kind of dataset, encoder and decoder section, since each has its own fields.
"""

from ml_collections import ConfigDict

# Whatever functions they have are functions of this module.
from configs import datasets, decoding
from configs.captioners import *  # noqa: F403
from configs.datasets import *  # noqa: F403
from configs.decoding import *  # noqa: F403
from configs.gpt2 import *  # noqa: F403
from configs.pretrained_encoders import *  # noqa: F403


def patch_encoder() -> ConfigDict:
    """A vision transformer from scratch (`capjax.models.encoders.patch`)."""
    encoder = ConfigDict()
    encoder.name = "patch"
    # Side of a patch in pixels; must divide dataset.image_size.
    encoder.patch_size = 8
    # Width of the memory.
    encoder.width = 128
    # Transformer blocks.
    encoder.depth = 4
    # Attention heads a block; must divide the width.
    encoder.num_heads = 4
    # Ratio of a feed-forward block's inner width to the width.
    encoder.mlp_ratio = 4.0
    # "learned" or "sincos" (fixed, two-dimensional).
    encoder.positions = "learned"
    # Whether a learned class token comes before the patches.
    encoder.class_token = False
    # Dropout rate on embeddings and residuals.
    encoder.dropout = 0.0
    return encoder


def conv_encoder() -> ConfigDict:
    """A small residual CNN from scratch (`capjax.models.encoders.conv`)."""
    encoder = ConfigDict()
    encoder.name = "conv"
    # Channels of each stage; every stage after the first halves the grid.
    encoder.widths = (64, 128)
    # Residual blocks a stage.
    encoder.blocks = 2
    # Stride of the first convolution.
    encoder.stem_stride = 4
    # Groups of the group norms; must divide every width.
    encoder.groups = 8
    # Whether the first convolution also sees where colours differ, from their mean and from their
    # neighbours: outlines and textures, whatever the colour.
    encoder.contrast = False
    # "learned" or "sincos" (fixed, two-dimensional).
    encoder.positions = "sincos"
    return encoder


def adapter() -> ConfigDict:
    """An adapter from an encoder's features to a decoder (`capjax.models.adapter`)."""
    adapter = ConfigDict()
    # Width of the memory that the decoder sees.
    adapter.width = 256
    # Whether layer norms come before and after the projection.
    adapter.norms = True
    # Activation of the projection: a function of flax.linen, or "" for none.
    adapter.activation = ""
    # Number of self-attention blocks over the memory.
    adapter.depth = 0
    # Attention heads a block.
    adapter.num_heads = 4
    # Ratio of a feed-forward block's inner width to the width.
    adapter.mlp_ratio = 4.0
    # Position embedding of the features: "learned", "sincos" or "none".
    adapter.positions = "sincos"
    # Dropout rate on the encoder's features.
    adapter.input_dropout = 0.0
    # Dropout rate on projected features and residuals.
    adapter.dropout = 0.1
    return adapter


def transformer_decoder() -> ConfigDict:
    """A transformer decoder (`capjax.models.decoders.transformer`)."""
    decoder = ConfigDict()
    decoder.name = "transformer"
    # Width of the token embeddings and residuals.
    decoder.width = 128
    # Decoder blocks.
    decoder.num_layers = 2
    # Attention heads a block.
    decoder.num_heads = 4
    # Width of a head; 0 is width / num_heads.
    decoder.head_dim = 0
    # Ratio of a feed-forward block's inner width to the width.
    decoder.mlp_ratio = 4.0
    # Place of the norms: "pre" or "post".
    decoder.norm = "pre"
    # Activation of the feed-forward blocks: a function of flax.linen.
    decoder.activation = "gelu"
    # Epsilon of the norms.
    decoder.epsilon = 1e-6
    # Dropout rate on embeddings and residuals.
    decoder.dropout = 0.1
    # Dropout rate on the residuals of feed-forward blocks; 0 is the same as dropout.
    decoder.feed_forward_dropout = 0.0
    # Dropout rate on attention weights.
    decoder.attention_dropout = 0.0
    # Whether the output layer is the token embedding, transposed.
    decoder.tie_embeddings = False
    # Whether the output bias starts at the log frequency of the train split's tokens.
    decoder.smart_bias = True
    return decoder


def bahdanau_decoder() -> ConfigDict:
    """A GRU or LSTM with additive attention (`capjax.models.decoders.bahdanau`)."""
    decoder = ConfigDict()
    decoder.name = "bahdanau"
    # "lstm" or "gru".
    decoder.cell = "lstm"
    # Width of the state.
    decoder.width = 512
    # Width of the token embeddings.
    decoder.embed_dim = 512
    # "soft": the weighted mean of all positions. "hard": one position, sampled in training.
    # "none": the image's mean feature, only in the initial state.
    decoder.attention = "soft"
    # Width of the additive attention's hidden layer.
    decoder.attention_dim = 512
    # "tanh" or "relu".
    decoder.attention_activation = "tanh"
    # Initial state: an affine map of the "mean" feature, or "zero".
    decoder.initial_state = "mean"
    # Gate on the attended features: "none", "scalar" (one number) or "vector" (one per feature).
    decoder.gate = "none"
    # Output layer: "linear" in the state, "hidden" (after a dense layer), or "deep" (of state, word
    # and image).
    decoder.output = "linear"
    # Dropout rate on the token embeddings.
    decoder.embedding_dropout = 0.0
    # Dropout rate before the output layer.
    decoder.dropout = 0.5
    # With hard attention: share of images that take the weighted mean in training.
    decoder.expected_rate = 0.5
    # Whether the backward pass recomputes attention, which saves memory; on CPUs it also saves
    # time, in decoding too.
    decoder.remat = True
    # Whether the output bias starts at the log frequency of the train split's tokens.
    decoder.smart_bias = True
    return decoder


def cross_entropy() -> ConfigDict:
    """Cross-entropy (`capjax.train.objectives.cross_entropy`), with fields outside of sections."""
    objective = ConfigDict()
    objective.name = "cross_entropy"
    return objective


def self_critical() -> ConfigDict:
    """Rewards of sampled captions (`capjax.train.objectives.self_critical`); see its document."""
    objective = ConfigDict()
    objective.name = "self_critical"
    # Captions sampled per image.
    objective.samples = 5
    # What a sample's reward is compared with: the "mean" of the image's other samples, or the
    # reward of its "greedy" caption.
    objective.baseline = "mean"
    # Rewards that are summed, by their registered names.
    objective.rewards = ("cider_d",)
    # Weight of each.
    objective.reward_weights = (1.0,)
    # The logits are divided by this, in the draw and in the gradient; below 1 is sharper.
    objective.temperature = 1.0
    # Samples are drawn from the likeliest tokens that have this probability together; 1 is all.
    objective.top_p = 1.0
    # Longest sample in tokens, with its end token; at most dataset.max_length for a transformer.
    objective.max_length = 20
    # Whether dropout acts: on the memory in draw and gradient, in the decoder in the gradient only.
    objective.dropout = False
    # Weight of the cross-entropy of the batch's captions, to which label_smoothing applies.
    objective.cross_entropy_weight = 0.0
    # Weight of the divergence from the starting model, in nats per caption.
    objective.kl_weight = 0.0
    return objective


def use_self_critical(config: ConfigDict, first_stage: str) -> None:
    """Makes a config the second stage of a run that was trained by cross-entropy.

    Args:
      config: that of the first stage.
      first_stage: its workdir, whose best checkpoint this one starts from.
    """
    config.init_from = first_stage
    config.objective = self_critical()
    config.objective.max_length = min(20, config.dataset.max_length)
    # Both belong to the cross-entropy.
    config.label_smoothing = config.attention_penalty = 0.0
    # Captions of the batch are not fed, so that grouping them would only compile more shapes.
    config.dataset.length_bucket = 0
    config.optimizer.schedule = "linear"
    config.optimizer.weight_decay = 0.0
    config.optimizer.encoder_start_step = 0


def split_lora(argument: str, usual: str) -> tuple[bool, str]:
    """Splits a config's argument, "SOURCE", "lora" or "lora:SOURCE", in (is_lora, source)."""
    first, _, source = argument.partition(":")
    return (True, source or usual) if first == "lora" else (False, argument)


def use_lora(config: ConfigDict) -> None:
    """Makes a config that starts from a captioner train low-rank adapters of it alone."""
    # As GPT-2 in Hu et al. 2021, table 11, whose projections are the usual ones here.
    config.lora.rank = 4
    config.lora.alpha = 32.0
    config.lora.dropout = 0.1
    if "trainable" in config.encoder:
        config.encoder.trainable = ()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.weight_decay = 0.01


def get_config() -> ConfigDict:
    """The base config: `shapes`, a patch encoder and a transformer decoder."""
    config = ConfigDict()
    # Seed of the initial parameters, the data order and dropout.
    config.seed = 0

    config.dataset = datasets.shapes_dataset()

    config.tokenizer = ConfigDict()
    # "words" between spaces; "characters"; or "bpe", frequent pieces of words. The last two also
    # suit languages that are written without spaces.
    config.tokenizer.kind = "words"
    # Words or characters with a lower count in the train split are unknown; "bpe" also merges no
    # pair with a lower count.
    config.tokenizer.min_count = 1
    # Largest number of tokens, most frequent first; 0 is no limit, which "bpe" needs.
    config.tokenizer.max_words = 0
    # Whether one-letter words and words with characters other than letters are dropped; of "words".
    config.tokenizer.alphabetic_only = False

    config.encoder = patch_encoder()
    config.decoder = transformer_decoder()
    config.word_vectors = ConfigDict()
    # Text file (or .gz) of GloVe, word2vec or fastText that initialises embeddings; "" is none.
    config.word_vectors.file = ""
    # Whether all word embeddings are frozen.
    config.word_vectors.frozen = False
    # Workdir of a run whose best parameters initialise this one, or a captioner of transformers
    # (a folder, or a name on huggingface.co); "" is random initialisation.
    config.init_from = ""
    # Parts taken from it: ("all",), or some of "encoder", "adapter" and "decoder".
    config.init_parts = ("all",)
    # Whether a decoder from there keeps its vocabulary; else the vocabulary is the dataset's, and
    # embeddings of words in both are copied.
    config.init_tokenizer = True
    # Low-rank adapters (Hu et al. 2021), which then train alone, over parameters of init_from.
    config.lora = ConfigDict()
    # Their rank; 0 is none, and all parameters train.
    config.lora.rank = 0
    # An adapter's output is multiplied by alpha / rank.
    config.lora.alpha = 16.0
    # Dropout rate on the input of an adapter.
    config.lora.dropout = 0.0
    # Projections that are adapted: "query", "key", "value" and "out" of attention, "up" and "down"
    # of feed-forward blocks, or other dense layers; "decoder/query" is the decoder's alone.
    config.lora.projections = ("query", "value")
    # Folder of PEFT with the adapters to start from; "" starts from ones that change nothing.
    config.lora.weights = ""
    # Type of the computation: "float32" or "bfloat16". Parameters are always float32.
    config.dtype = "float32"
    # Whether attention in bfloat16 on an NVIDIA GPU uses cuDNN's fused kernel where no maps are
    # asked for.
    config.fused_attention = True

    # Images per step, over all devices.
    config.batch_size = 64
    # Total number of updates.
    config.num_steps = 1000
    # Microbatches into which a device's share of a batch is split, to save memory.
    config.accumulate = 1
    # Decay of the parameters' moving average, which is then evaluated; 0 keeps none.
    config.ema_decay = 0.0
    # The training objective.
    config.objective = cross_entropy()
    # Words that training puts before every caption and that have no loss: "a photo of". Captions
    # are then made with decoding.prompt, which is the same.
    config.prompt = ""
    # Probability mass that the loss spreads over all allowed tokens.
    config.label_smoothing = 0.0
    # Weight of the doubly stochastic attention penalty: each position's sum over a caption is 1.
    config.attention_penalty = 0.0

    # Objective of a decoder with attention="hard".
    config.hard_attention = ConfigDict()
    # Weight of the REINFORCE term of the gradient; 1 is unbiased where decoder.expected_rate is 0.
    config.hard_attention.reinforce_weight = 1.0
    # Weight of the entropy of the attention.
    config.hard_attention.entropy_weight = 0.01

    # Scheduled sampling (Bengio et al. 2015) in recurrent decoders: feeds some of the decoder's own
    # words. The share of the references' words at step i is:
    config.scheduled_sampling = ConfigDict()
    # "none": 1. "linear": max(floor, k - slope i). "exponential": k^i.
    # "inverse_sigmoid": k / (k + exp(i / k)).
    config.scheduled_sampling.kind = "none"
    # The k in `kind`.
    config.scheduled_sampling.k = 1.0
    # The slope in "linear".
    config.scheduled_sampling.slope = 0.0001
    # The floor in "linear".
    config.scheduled_sampling.floor = 0.75

    config.optimizer = ConfigDict()
    # "adamw"; or "muon" (Jordan et al. 2024), which orthogonalises the updates of matrices and
    # convolutions and trains the rest by Adam.
    config.optimizer.kind = "adamw"
    # Peak learning rate, after a linear warm-up.
    config.optimizer.learning_rate = 1e-3
    # Peak learning rate of the parameters that Muon orthogonalises.
    config.optimizer.matrix_learning_rate = 0.02
    # Schedule after the warm-up: a "cosine" or a "linear" decay to 0, or "constant".
    config.optimizer.schedule = "cosine"
    # Peak learning rate of the encoder; 0 is the same as learning_rate.
    config.optimizer.encoder_learning_rate = 0.0
    # First step in which the encoder trains.
    config.optimizer.encoder_start_step = 0
    # Steps of the warm-up.
    config.optimizer.warmup_steps = 100
    # AdamW's decay of the gradient's mean.
    config.optimizer.b1 = 0.9
    # AdamW's decay of the squared gradient's mean.
    config.optimizer.b2 = 0.98
    # Epsilon that is added to the root of that mean.
    config.optimizer.epsilon = 1e-8
    # AdamW's weight decay, on matrices only.
    config.optimizer.weight_decay = 0.01
    # Largest global norm of the gradient; 0 does not clip.
    config.optimizer.clip_norm = 1.0
    # Largest absolute value in the gradient; 0 does not clip.
    config.optimizer.clip_value = 0.0
    # Most updates in a row to skip because loss or gradient are not finite; one more stops
    # training.
    config.optimizer.skip_nonfinite = 0

    # Steps between logs of training scalars.
    config.log_every = 20
    # Steps between evaluations on validation, each followed by a checkpoint.
    config.eval_every = 500
    # Steps between further checkpoints; 0 for none.
    config.checkpoint_every = 0
    # Project on wandb.ai to which all logs also go, which needs the package wandb; "" is none.
    config.wandb_project = ""

    config.early_stopping = ConfigDict()
    # Validation metric that ranks the checkpoints.
    config.early_stopping.metric = "CIDEr-D"
    # "auto": the least loss is the best, and the most of other metrics; of a metric of your own,
    # "max" or "min" says which value is the best.
    config.early_stopping.mode = "auto"
    # Evaluations without a new best before training stops; 0 never stops.
    config.early_stopping.patience = 0

    config.evaluation = ConfigDict()
    # Images per batch, over all devices.
    config.evaluation.batch_size = 64
    # Fixed validation images that are captioned and drawn at every evaluation.
    config.evaluation.num_samples = 4
    # Temperatures of those captions; 0 is greedy.
    config.evaluation.temperatures = (0.0, 0.5, 1.0)
    # Further metrics of captions, by their registered names.
    config.evaluation.metrics = ()

    config.decoding = decoding.decoding_settings()
    return config
