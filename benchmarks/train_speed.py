"""Training speed of capjax and of a Keras model with the TensorFlow tutorial's layers.

    python -m benchmarks.train_speed [--rounds 3] [--layouts packed ...] [--steps 60]

Both train 2 post-norm layers of 256 units, 2 heads with key_dim 256, feed-forward 512, dropout 0.5,
on cached 7x7x576 features, 16 images x 5 captions per step, with the same vocabulary of 2541, the
same captions of at most T = 20 tokens, and Adam. Keras repeats an image's features for each of its
captions and pads every caption to T, as the tutorial does, and compiles with the defaults of
`model.compile`. capjax runs its own training step on its own batches: "padded" to T as in Keras,
"bucketed" (`dataset.length_bucket=4`), or "packed" (`dataset.packed`, bucket 8).

The sides take turns in processes of their own. A process trains on the same batches twice: the
first pass compiles every shape, the second is measured, including the making of batches. Figures
are medians over rounds. The fraction of the limit is by operations: those of a step of 80 captions
of these lengths, whatever the layout.
"""

import argparse
import json
import os
import time

import numpy as np

from benchmarks.rows import Report
from benchmarks.sides import alternate, peak_memory_mib

IMAGES, CAPTIONS, LENGTH, VOCABULARY = 16, 5, 20, 2541
POSITIONS, FEATURES = 49, 576
UNITS, HEADS, LAYERS, DROPOUT = 256, 2, 2, 0.5
# Mean and deviation of the words per caption in Flickr8k's train split, without punctuation.
MEAN_WORDS, DEVIATION_WORDS = 10.8, 3.8
POOL = 3200  # Number of images from which batches are drawn.


def captions(seed: int = 0) -> list[list[np.ndarray]]:
    """Draws token ids "words ... eos" of each image's captions."""
    rng = np.random.default_rng(seed)
    words = rng.normal(MEAN_WORDS, DEVIATION_WORDS, (POOL, CAPTIONS)).round()
    return [
        [np.append(rng.integers(4, VOCABULARY, count), 2).astype(np.int32) for count in row]
        for row in words.clip(3, LENGTH - 1).astype(int)
    ]


def timed(step, make, steps: int) -> dict[str, float]:
    """Trains on batches make(0) ... make(steps - 1) twice; measures the second pass."""
    start = time.perf_counter()
    step(make(0))
    first = time.perf_counter() - start
    for number in range(1, steps):
        step(make(number))
    start = time.perf_counter()
    for number in range(steps):
        step(make(number))
    seconds = (time.perf_counter() - start) / steps
    return {"seconds": seconds, "first": first, "peak_memory_mib": peak_memory_mib()}


def run_capjax(layout: str, steps: int) -> dict:
    """Measures capjax's training step on its batches of a layout."""
    import jax
    import optax

    from benchmarks.needs import feature_flops, training_flops
    from capjax.data.batches import TrainBatches
    from capjax.data.captions import CaptionReport, EncodedCaptions
    from capjax.data.tokenizer import train_word_tokenizer
    from capjax.models.captioner import Captioner, FeatureEncoder
    from capjax.models.decoders.transformer import TransformerDecoder
    from capjax.parallel import devices
    from capjax.train.objectives.cross_entropy import CrossEntropy
    from capjax.train.state import init_state
    from capjax.train.step import make_train_step

    report = CaptionReport(POOL, 0, 0, 0, 0, 0, 0, (), 0, 0, (), np.zeros(1))
    tokens = tuple(map(tuple, captions()))
    encoded = EncodedCaptions(tuple(map(str, range(POOL))), tokens, LENGTH, "synthetic", report)
    tokenizer = train_word_tokenizer([f"w{word}" for word in range(VOCABULARY - 4)])
    batches = TrainBatches(
        encoded,
        tokenizer,
        batch_size=IMAGES,
        captions_per_image=CAPTIONS,
        seed=0,
        length_bucket={"padded": None, "bucketed": 4, "packed": 8}[layout],
        packed=layout == "packed",
    )
    model = Captioner(
        FeatureEncoder((7, 7)),
        TransformerDecoder(
            vocab_size=VOCABULARY,
            max_length=LENGTH,
            width=UNITS,
            num_layers=LAYERS,
            num_heads=HEADS,
            head_dim=UNITS,
            mlp_ratio=2.0,
            norm="post",
            activation="relu",
            dropout=DROPOUT,
            attention_dropout=DROPOUT,
            banned=tokenizer.banned_ids,
        ),
    )
    optimizer = optax.adam(1e-4)
    params = model.init_variables(jax.random.key(0), (POSITIONS, FEATURES))["params"]
    state = devices.replicate(init_state(params, optimizer, ema=False))
    step = make_train_step(model, optimizer, seed=0, objective=CrossEntropy())
    step = devices.map_step(step)
    pool = np.random.default_rng(1).normal(size=(POOL, POSITIONS, FEATURES)).astype(np.float32)

    def make(number):
        batch = batches(number)
        found = {"tokens": batch.tokens, "lengths": batch.lengths}
        if batch.packing is not None:
            found["packing"] = batch.packing
        return {"features": pool[batch.index], **found}

    def train(batch):
        nonlocal state
        state, metrics = step(state, devices.shard(batch))
        jax.block_until_ready(metrics)

    found = timed(train, make, steps)
    lengths = [len(ids) for image in tokens for ids in image]
    once, each = feature_flops(model, (POSITIONS, FEATURES), lengths)
    flops = IMAGES * training_flops(once, each / POOL)
    return found | {"needs": {"flops": flops}}


def run_keras(steps: int) -> dict[str, float]:
    """Measures the tutorial's layers in `train_on_batch`, compiled with Keras's defaults."""
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    import keras
    from keras import layers, ops

    class Embedding(layers.Layer):
        def __init__(self):
            super().__init__()
            self.tokens = layers.Embedding(VOCABULARY, UNITS, mask_zero=True)
            self.positions = layers.Embedding(LENGTH, UNITS)

        def call(self, x):
            return self.tokens(x) + self.positions(ops.arange(LENGTH))[None]

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.itself = layers.MultiHeadAttention(HEADS, UNITS, dropout=DROPOUT)
            self.image = layers.MultiHeadAttention(HEADS, UNITS, dropout=DROPOUT)
            self.norms = [layers.LayerNormalization() for _ in range(3)]
            dense = [layers.Dense(2 * UNITS, activation="relu"), layers.Dense(UNITS)]
            self.feed_forward = keras.Sequential([*dense, layers.Dropout(DROPOUT)])

        def call(self, x, features, training=None):
            y = self.itself(x, x, use_causal_mask=True, training=training)
            x = self.norms[0](x + y)
            x = self.norms[1](x + self.image(x, features, training=training))
            return self.norms[2](x + self.feed_forward(x, training=training))

    def loss(labels, logits):
        each = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        mask = ops.cast((labels != 0) & (each < 1e8), each.dtype)
        return ops.sum(each * mask) / ops.sum(mask)

    features = keras.Input((POSITIONS, FEATURES))
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = Embedding()(tokens)
    for _ in range(LAYERS):
        x = Block()(x, features)
    model = keras.Model([features, tokens], layers.Dense(VOCABULARY)(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=loss)

    texts = captions()
    pool = np.random.default_rng(1).normal(size=(POOL, POSITIONS, FEATURES)).astype(np.float32)
    order = np.random.default_rng(0).permutation(POOL)

    def make(number):
        index = order[np.arange(number * IMAGES, (number + 1) * IMAGES) % POOL]
        padded = np.zeros((IMAGES * CAPTIONS, LENGTH + 1), np.int32)
        padded[:, 0] = 1
        for row, ids in enumerate(ids for image in index for ids in texts[image]):
            padded[row, 1 : len(ids) + 1] = ids
        return np.repeat(pool[index], CAPTIONS, axis=0), padded

    def train(batch):
        images, padded = batch
        model.train_on_batch([images, padded[:, :-1]], padded[:, 1:])

    return timed(train, make, steps)


LAYOUTS = ("padded", "bucketed", "packed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--steps", type=int, default=60, help="batches of a pass")
    parser.add_argument("--side", choices=("keras", *LAYOUTS), help="run one side in this process")
    given = parser.parse_args()
    if given.side:
        keras = given.side == "keras"
        print(json.dumps(run_keras(given.steps) if keras else run_capjax(given.side, given.steps)))
        return
    report = Report()
    sides = ("keras", *given.layouts)
    found = alternate("train_speed", sides, given.rounds, f"--steps={given.steps}")
    shown = {"count": IMAGES * CAPTIONS, "unit": "captions/s"}
    for layout in given.layouts:
        what = f"training on cached features, {layout}"
        report.add(what, "Keras", found["keras"], found[layout], **shown)
    report.close()


if __name__ == "__main__":
    main()
