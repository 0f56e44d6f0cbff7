"""TensorFlow's tutorial "Image captioning with visual attention", to the letter.

    capjax train --config flickr8k_tf_tutorial --config.dataset.root=flickr8k
    capjax evaluate --config flickr8k_tf_tutorial --config.dataset.root=flickr8k

Every number is that of the notebook in its version with a transformer, as of August 2023:
tensorflow.org/text/tutorials/image_captioning (docs/tutorials/image_captioning.ipynb of
github.com/tensorflow/text). The decoder has 5,866,376 parameters. The run that the notebook prints
stops early after epoch 54, of 100 steps each; epoch 49 is the best, with a validation loss of 2.87
and an accuracy of 0.40.

What differs:

- The notebook stops by the loss of 640 captions of the test split; this config by that of the whole
  validation split, and the test split stays unseen.
- Its accuracy counts unknown words as wrong; here they have no weight, as in the loss of both.
- Its batches are 32 of the 30,000 pairs of an image and a caption; here they are 32 images, each
  with one of its captions.
- It caches features as float32; here they are float16.
- Keras's initial parameters have other scales, and its Adam adds epsilon before the correction of
  bias, which counts in the first steps only.
- It captions an image of a surfer after each epoch; here it is the first of validation.

`flickr8k_transformer` has this system's parts with another encoder, an adapter, and other training.
"""

from configs import base


def get_config():
    """A frozen MobileNetV3-Small and two post-norm decoder blocks of 256."""
    config = base.get_config()
    config.dataset = base.flickr8k_dataset()
    base.use_encoder(config, "mobilenet_v3_small")
    # tf.image.resize.
    config.dataset.antialias = False
    # 50 positions; no caption is longer.
    config.dataset.max_length = 50
    # Batches of 32 captions, drawn without regard to length.
    config.batch_size = 32
    config.dataset.captions_per_image = 1
    config.dataset.length_bucket = 0
    # 5,000 ids with the four special ones.
    config.tokenizer.max_words = 4996

    config.decoder.width = 256
    config.decoder.num_layers = 2
    config.decoder.num_heads = 2
    config.decoder.head_dim = 256
    config.decoder.mlp_ratio = 2.0
    config.decoder.norm = "post"
    config.decoder.epsilon = 1e-3
    config.decoder.activation = "relu"
    # Only on attention weights and after feed-forward blocks.
    config.decoder.dropout = 0.0
    config.decoder.feed_forward_dropout = 0.5
    config.decoder.attention_dropout = 0.5
    config.decoder.smart_bias = True

    # Keras's Adam.
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.b2 = 0.999
    config.optimizer.epsilon = 1e-7
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 0.0

    # 100 epochs of 100 steps.
    config.num_steps = 10_000
    config.eval_every = 100
    config.log_every = 100
    config.early_stopping.metric = "loss"
    config.early_stopping.patience = 5
    config.evaluation.num_samples = 1
    config.evaluation.temperatures = (0.0, 0.5, 1.0)
    # Greedy, of at most 50 tokens after the start.
    config.decoding.num_beams = 1
    config.decoding.max_length = 51
    return config
