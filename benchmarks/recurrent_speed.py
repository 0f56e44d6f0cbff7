"""Training and beam search of Show, Attend and Tell in capjax and in PyTorch.

    python -m benchmarks.recurrent_speed [--rounds 3] [--task 32x1 32x5 6x5 beam] [--captions 320]
        [--layouts bucketed ...]

Both sides have the decoder of the well-known PyTorch tutorial: an LSTM with soft ReLU attention on
14x14x2048 features, otherwise 512 wide, with a vocabulary of 9490. The peer follows the tutorial: a
Python loop over an LSTM cell projects the features again at each step, over captions sorted by
length, and drops those that have ended. capjax runs its own decoder, training step, batches and
search.

Training tasks are named "images x captions per image" of a step: 32x1, 32x5 and 6x5. The peer
repeats an image's features for each of its captions. Both sides train on the same captions of 8
words plus a Poisson number of words, 10.5 on average as in COCO, with Adam, gradients clipped to 5
by value, dropout 0.5 and doubly stochastic attention. capjax's batches are "padded" (21 tokens per
caption), "bucketed" (`dataset.length_bucket=2`) or "packed" (`dataset.packed`, bucket 8). The last
of two passes over the batches is measured, including the making of batches; the peer, which
compiles nothing, takes a single batch as its first pass.

The task "beam" searches with 5 beams over 32 images, at most 50 tokens, with the same weights on
both sides: random, except for one unit of the state that counts words and ends captions after about
12. The peer searches one image at a time, as the tutorial's script does, with fewer beams as
captions end; capjax searches all 32 at once. Both rank captions by the sum of their
log-probabilities. The number of equal best captions is printed.

The sides take turns in processes of their own with two threads. Figures are medians over rounds.
The fraction of the limit is by operations: those of the captions without padding, of attention that
is not computed again, and in the search of the steps to the end of each best caption. Measure on an
idle machine: beside one busy process the peer's search was five times slower, since PyTorch's
threads wait for each other. The peer needs PyTorch: pip install -e ".[parity]".
"""

import argparse
import json
import time

import numpy as np

from benchmarks.rows import Report
from benchmarks.sides import alternate, peak_memory_mib, progress, use_two_cores

GRID, FEATURES, WIDTH, VOCABULARY = (14, 14), 2048, 512, 9490
POSITIONS = GRID[0] * GRID[1]
MOST_WORDS = 20
RATE, CLIP, DROPOUT, PENALTY = 4e-4, 5.0, 0.5, 1.0
TASKS = {"32x1": (32, 1), "32x5": (32, 5), "6x5": (6, 5)}
LAYOUTS = {"padded": None, "bucketed": 2, "packed": 8}
POOL = 64  # Number of images with features; they repeat.
BEAMS, BEAM_IMAGES, MOST_STEPS = 5, 32, 50
PAD, BOS, EOS, UNK = range(4)
END = 100.0, -50.0  # Weight from the unit that counts words to EOS, and the bias of EOS.


def draw_captions(task: str, count: int) -> list[list[np.ndarray]]:
    """Draws token ids "bos words eos" of about `count` captions, in whole training batches."""
    images, captions = TASKS[task]
    rng = np.random.default_rng(0)
    words = 8 + rng.poisson(2.5, (max(count // (images * captions), 1) * images, captions))
    return [
        [np.array([BOS, *rng.integers(4, VOCABULARY, n), EOS]) for n in row]
        for row in words.clip(max=MOST_WORDS)
    ]


def make_features(images: int) -> np.ndarray:
    """Draws float32 features [images, P, F], not negative, scaled per image and channel."""
    rng = np.random.default_rng(1)
    features = rng.random((images, POSITIONS, FEATURES), np.float32)
    return features * rng.exponential(1.0, (images, 1, FEATURES)).astype(np.float32)


def draw_weights() -> dict[str, np.ndarray]:
    """Draws weights of the decoder, by the peer's names, such that captions depend on the image."""
    rng = np.random.default_rng(2)

    def dense(name: str, outputs: int, inputs: int, scale: float = 1.0) -> dict[str, np.ndarray]:
        kernel = rng.normal(0, scale * inputs**-0.5, (outputs, inputs))
        return {f"{name}.weight": kernel, f"{name}.bias": np.zeros(outputs)}

    inputs, gates = WIDTH + FEATURES, 4 * WIDTH
    weights = {
        **dense("attention.encoder_att", WIDTH, FEATURES, 4.0),
        **dense("attention.decoder_att", WIDTH, WIDTH),
        **dense("attention.full_att", 1, WIDTH, 4.0),
        "embedding.weight": rng.normal(size=(VOCABULARY, WIDTH)),
        **dense("init_h", WIDTH, FEATURES, 4.0),
        **dense("init_c", WIDTH, FEATURES, 4.0),
        **dense("f_beta", FEATURES, WIDTH),
        "decode_step.weight_ih": rng.normal(0, 2 * inputs**-0.5, (gates, inputs)),
        "decode_step.weight_hh": rng.normal(0, 2 * WIDTH**-0.5, (gates, WIDTH)),
        "decode_step.bias_ih": np.zeros(gates),
        "decode_step.bias_hh": np.zeros(gates),
        **dense("fc", VOCABULARY, WIDTH, 6.0),
    }
    weights["fc.bias"][[PAD, BOS, UNK]] = -1e4  # capjax bans these tokens.
    # The first unit of the state grows by 0.05 per word, and finally triggers EOS.
    for gate, bias in enumerate((10.0, 10.0, 0.05, 10.0)):
        weights["decode_step.weight_ih"][gate * WIDTH] = 0.0
        weights["decode_step.weight_hh"][gate * WIDTH] = 0.0
        weights["decode_step.bias_ih"][gate * WIDTH] = bias
    weights["init_c.weight"][0] = 0.0
    weights["fc.weight"][:, 0] = 0.0
    weights["fc.weight"][EOS, 0], weights["fc.bias"][EOS] = END
    return {name: array.astype(np.float32) for name, array in weights.items()}


def figures(seconds: float, count: int, **more) -> dict:
    return {"seconds": seconds, "count": count, "peak_memory_mib": peak_memory_mib(), **more}


def passed_over(steps: int, step) -> float:
    """Times step(0) ... step(steps - 1), in seconds."""
    start = time.perf_counter()
    for number in range(steps):
        step(number)
    return time.perf_counter() - start


def make_peer():
    """Builds the peer's decoder in PyTorch."""
    import torch
    from torch import nn

    torch.set_num_threads(2)
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder_att = nn.Linear(FEATURES, WIDTH)
            self.decoder_att = nn.Linear(WIDTH, WIDTH)
            self.full_att = nn.Linear(WIDTH, 1)

        def forward(self, features, hidden):
            mixed = torch.relu(self.encoder_att(features) + self.decoder_att(hidden)[:, None])
            weights = self.full_att(mixed).softmax(dim=1)
            return (features * weights).sum(dim=1), weights[..., 0]

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Attention()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.init_h = nn.Linear(FEATURES, WIDTH)
            self.init_c = nn.Linear(FEATURES, WIDTH)
            self.f_beta = nn.Linear(WIDTH, FEATURES)
            self.decode_step = nn.LSTMCell(WIDTH + FEATURES, WIDTH)
            self.fc = nn.Linear(WIDTH, VOCABULARY)
            self.dropout = nn.Dropout(DROPOUT)

        def start(self, features):
            mean = features.mean(dim=1)
            return self.init_h(mean), self.init_c(mean)

        def advance(self, features, embedded, state):
            context, weights = self.attention(features, state[0])
            context = torch.sigmoid(self.f_beta(state[0])) * context
            return self.decode_step(torch.cat([embedded, context], dim=1), state), weights

        def forward(self, features, tokens, lengths):
            """Returns logits [B, T, V] and attention [B, T, P] of captions sorted by length."""
            steps = int(lengths[0])
            logits = torch.zeros(len(tokens), steps, VOCABULARY)
            seen = torch.zeros(len(tokens), steps, POSITIONS)
            embedded = self.embedding(tokens)
            hidden, cell = self.start(features)
            for t in range(steps):
                left = int((lengths > t).sum())
                (hidden, cell), weights = self.advance(
                    features[:left], embedded[:left, t], (hidden[:left], cell[:left])
                )
                logits[:left, t] = self.fc(self.dropout(hidden))
                seen[:left, t] = weights
            return logits, seen

    return Decoder()


def train_peer(task: str, count: int) -> dict:
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

    (images, each), captions = TASKS[task], draw_captions(task, count)
    pool, decoder = make_features(POOL), make_peer()
    optimizer = torch.optim.Adam(decoder.parameters(), RATE)

    def packed(x, lengths):
        return pack_padded_sequence(x, lengths, batch_first=True).data

    def step(number: int) -> float:
        index = np.arange(number * images, (number + 1) * images)
        texts = [torch.from_numpy(ids) for image in index for ids in captions[image]]
        # Features are repeated for each caption, as by the tutorial's loader.
        features = torch.from_numpy(pool[np.repeat(index % POOL, each)])
        lengths, order = torch.tensor([len(ids) - 1 for ids in texts]).sort(descending=True)
        features, tokens = features[order], pad_sequence(texts, batch_first=True)[order]
        logits, seen = decoder(features, tokens, lengths)
        loss = torch.nn.functional.cross_entropy(
            packed(logits, lengths), packed(tokens[:, 1:], lengths)
        )
        loss = loss + PENALTY * ((1 - seen.sum(dim=1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(decoder.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    step(0)
    return figures(passed_over(len(captions) // images, step), len(captions) * each)


def make_captioner():
    from capjax.models.captioner import Captioner, FeatureEncoder
    from capjax.models.decoders.bahdanau import BahdanauDecoder

    decoder = BahdanauDecoder(
        vocab_size=VOCABULARY,
        width=WIDTH,
        embed_dim=WIDTH,
        attention_dim=WIDTH,
        attention_activation="relu",
        gate="vector",
        dropout=DROPOUT,
        banned=(PAD, BOS, UNK),
    )
    return Captioner(FeatureEncoder(GRID), decoder)


def make_tokenizer():
    from capjax.data.tokenizer import train_word_tokenizer

    return train_word_tokenizer([f"w{word}" for word in range(VOCABULARY - 4)])


def train_capjax(task: str, count: int, layout: str) -> dict:
    import jax
    import optax

    from benchmarks.needs import feature_flops, training_flops
    from capjax.data.batches import TrainBatches
    from capjax.data.captions import CaptionReport, EncodedCaptions
    from capjax.parallel import devices
    from capjax.train.objectives.cross_entropy import CrossEntropy
    from capjax.train.state import init_state
    from capjax.train.step import make_train_step

    (images, each), captions = TASKS[task], draw_captions(task, count)
    report = CaptionReport(len(captions), 0, 0, 0, 0, 0, 0, (), 0, 0, (), np.zeros(1))
    tokens = tuple(tuple(ids[1:].astype(np.int32) for ids in image) for image in captions)
    ids = tuple(map(str, range(len(tokens))))
    batches = TrainBatches(
        EncodedCaptions(ids, tokens, MOST_WORDS + 1, "synthetic", report),
        make_tokenizer(),
        batch_size=images,
        captions_per_image=each,
        seed=0,
        length_bucket=LAYOUTS[layout],
        packed=layout == "packed",
    )
    pool, model = make_features(POOL), make_captioner()
    optimizer = optax.chain(optax.clip(CLIP), optax.adam(RATE))
    params = model.init_variables(jax.random.key(0), (POSITIONS, FEATURES))["params"]
    state = devices.replicate(init_state(params, optimizer, ema=False))
    update = make_train_step(
        model, optimizer, seed=0, objective=CrossEntropy(attention_penalty=PENALTY)
    )
    update = devices.map_step(update)

    def step(number: int) -> float:
        nonlocal state
        batch = batches(number)
        found = {"tokens": batch.tokens, "lengths": batch.lengths, "packing": batch.packing}
        found = {name: value for name, value in found.items() if value is not None}
        found["features"] = pool[batch.index % POOL]
        state, metrics = update(state, devices.shard(found))
        return float(metrics["objective"][0])

    steps = len(captions) // images
    passed_over(steps, step)
    found = figures(passed_over(steps, step), len(captions) * each)
    lengths = [len(ids) for image in tokens for ids in image]
    once, rest = feature_flops(model, (POSITIONS, FEATURES), lengths)
    return found | {"needs": {"flops": training_flops(len(tokens) * once, rest)}}


def search_peer() -> dict:
    import torch

    decoder = make_peer().eval()
    weights = {name: torch.from_numpy(array) for name, array in draw_weights().items()}
    decoder.load_state_dict(weights)
    features = torch.from_numpy(make_features(BEAM_IMAGES))

    @torch.no_grad()
    def search(one):
        """Returns the best caption of features [P, F], ids without EOS, and its log-probability."""
        one = one.expand(BEAMS, *one.shape)
        state, tokens = decoder.start(one), torch.full((BEAMS,), BOS)
        sums, captions, ended = torch.zeros(BEAMS), [[]] * BEAMS, []
        for number in range(MOST_STEPS):
            state, _ = decoder.advance(one, decoder.embedding(tokens), state)
            reached = sums[:, None] + decoder.fc(state[0]).log_softmax(dim=1)
            # All beams are equal at the first step.
            reached = reached[:1] if number == 0 else reached
            sums, places = reached.flatten().topk(len(captions))
            beams, tokens = places // VOCABULARY, places % VOCABULARY
            captions = [[*captions[b], int(t)] for b, t in zip(beams, tokens, strict=True)]
            left = []
            for row, caption in enumerate(captions):
                if caption[-1] == EOS:
                    ended.append((sums[row].item(), caption[:-1]))
                else:
                    left.append(row)
            if not left:
                break
            captions, sums, tokens = [captions[row] for row in left], sums[left], tokens[left]
            one, state = one[beams[left]], tuple(part[beams[left]] for part in state)
        # If no caption has ended, the best of the unfinished ones.
        return max(ended or [(sums[0].item(), captions[0])])[::-1]

    search(features[0])
    found = []
    seconds = passed_over(BEAM_IMAGES, lambda number: found.append(search(features[number])))
    return figures(seconds, BEAM_IMAGES, found=found)


def search_capjax() -> dict:
    from benchmarks.needs import feature_flops
    from capjax.evaluate.captioning import BeamSearch, CaptionBatches
    from capjax.parallel import devices
    from capjax.pretrained.captioners.show_attend_tell import decoder_variables

    tokenizer = make_tokenizer()
    method = BeamSearch(BEAMS, length_penalty=0.0, early_stopping=True, max_length=MOST_STEPS + 1)
    caption = CaptionBatches(make_captioner(), tokenizer)
    params = decoder_variables(draw_weights(), "drawn weights")["params"]
    variables = devices.replicate({"params": {"decoder": params}})
    batch = {"features": make_features(BEAM_IMAGES), "index": np.arange(BEAM_IMAGES)}
    list(caption(variables, [batch], method))
    start = time.perf_counter()
    captions = [said for _, said in caption(variables, [batch], method)]
    seconds = time.perf_counter() - start
    found = [(tokenizer.encode(said.text), said.log_prob) for said in captions]
    measured = figures(seconds, BEAM_IMAGES, found=found)
    # All beams have the same first word; the last step is that of EOS.
    once, step = feature_flops(make_captioner(), (POSITIONS, FEATURES), [1])
    steps = sum(1 + BEAMS * len(ids) for ids, _ in found)
    return measured | {"needs": {"flops": BEAM_IMAGES * once + steps * step}}


def compare(peer: list, ours: list) -> str:
    """Describes how far the best captions of both sides agree."""
    pairs = list(zip(peer, ours, strict=True))
    apart = [abs(x - y) for (a, x), (b, y) in pairs if a == b]
    better = sum(y > x for (a, x), (b, y) in pairs if a != b)
    words = [np.mean([len(caption) for caption, _ in side]) for side in (peer, ours)]
    return (
        f"the same best caption for {len(apart)} of {len(pairs)} images, with log-probabilities at "
        f"most {max(apart, default=0):.0e} apart; of the others capjax's is likelier for {better}; "
        f"words per caption: {words[0]:.1f} and {words[1]:.1f}"
    )


def run_side(task: str, side: str, count: int) -> dict:
    use_two_cores()
    if task == "beam":
        return search_peer() if side == "peer" else search_capjax()
    return train_peer(task, count) if side == "peer" else train_capjax(task, count, side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    tasks = (*TASKS, "beam")
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--task", nargs="+", choices=tasks, default=tasks, help="tasks to measure")
    parser.add_argument("--captions", type=int, default=320, help="captions per training pass")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=tuple(LAYOUTS))
    parser.add_argument("--side", help="run one side of a task in this process")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run_side(given.task[0], given.side, given.captions)))
        return
    report = Report(two_cores=True)
    for task in given.task:
        sides = ("peer", *given.layouts) if task in TASKS else ("peer", "capjax")
        options = [f"--task={task}", f"--captions={given.captions}"]
        found = alternate("recurrent_speed", sides, given.rounds, *options)
        if task == "beam":
            progress(compare(*(runs[0]["found"] for runs in found.values())))
        for side, runs in list(found.items())[1:]:
            shown = {"count": runs[0]["count"], "unit": "captions/s"}
            what = f"LSTM with attention, {task} {side if task in TASKS else 'search'}"
            report.add(what, "PyTorch", found["peer"], runs, **shown)
    report.close()


if __name__ == "__main__":
    main()
