"""Speed and memory of CIDEr-D on the device beside pycocoevalcap.

    python -m benchmarks.reward_speed [--rounds 5] [--images 64] [--samples 5]

Both score 64 images x 5 samples against 5 references an image, with the idf of the same corpus of
6,000 images x 5 captions. Captions are random words of a Zipf distribution, 10.8 words and the end
token on average. pycocoevalcap is given ready texts and document frequencies, and counts the
n-grams of an image's references once for all its samples; capjax is given NumPy arrays of token
ids, and its time includes putting them on the device.

The sides take turns in processes of their own with two cores. Figures are medians over rounds of
the median call of each. "scratch" is the memory of the compiled program beside its arguments and
"table" that of the document frequencies.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np

from benchmarks.sides import measure, medians, peak_memory_mib, use_two_cores

VOCABULARY, LENGTH, EOS = 2541, 20, 2
# Mean and deviation of the words per caption in Flickr8k's train split, without punctuation.
MEAN_WORDS, DEVIATION_WORDS = 10.8, 3.8
CORPUS, REFERENCES = 6000, 5
CALLS = 10


def draw(seed: int, images: int, each: int) -> list[list[np.ndarray]]:
    """Draws token ids "words ... eos" of each image's captions."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, VOCABULARY - 3)
    counts = rng.normal(MEAN_WORDS, DEVIATION_WORDS, (images, each)).round().clip(3, LENGTH - 1)
    words = 4 + rng.choice(len(share), int(counts.sum()), p=share / share.sum())
    captions = iter(np.split(words, counts.ravel().cumsum().astype(int)))
    return [[np.append(next(captions), EOS) for _ in range(each)] for _ in range(images)]


def timed(call) -> dict[str, float]:
    call()
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - start)
    return {"ms": 1e3 * statistics.median(seconds), "mean": float(np.mean(found))}


def score_peer(images: int, samples: int) -> dict[str, float]:
    from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test

    def texts(captions):
        return [[" ".join(map(str, ids)) for ids in own] for own in captions]

    class OfCorpus(CiderScorer):
        ref_len = property(lambda self: np.log(float(CORPUS)), lambda self, _: None)

    counted = CiderScorer()
    for own in texts(draw(0, CORPUS, REFERENCES)):
        counted += ("", own)
    counted.compute_doc_freq()
    said, given = texts(draw(1, images, samples)), texts(draw(0, images, REFERENCES))

    def call():
        scorer = OfCorpus()
        scorer.document_frequency = counted.document_frequency
        for own, references in zip(said, given, strict=True):
            scorer.ctest += map(cook_test, own)
            scorer.crefs += [cook_refs(references)] * len(own)
        return scorer.compute_cider()

    return timed(call)


def score_capjax(images: int, samples: int) -> dict[str, float]:
    import jax

    from capjax.metrics.rewards.cider_d import CiderD

    def pad(captions):
        tokens = np.zeros((len(captions), len(captions[0]), LENGTH), np.int32)
        for image, own in enumerate(captions):
            for k, ids in enumerate(own):
                tokens[image, k, : len(ids)] = ids
        return tokens, np.array([[len(ids) for ids in own] for own in captions], np.int32)

    reward = CiderD()
    start = time.perf_counter()
    table = reward.prepare(draw(0, CORPUS, REFERENCES), eos_id=EOS, vocab_size=VOCABULARY)
    prepared = time.perf_counter() - start
    table = jax.device_put(table)
    arrays = *pad(draw(1, images, samples)), *pad(draw(0, images, REFERENCES))
    run = jax.jit(reward.__call__).lower(table, *arrays).compile()
    found = timed(lambda: np.asarray(run(table, *map(jax.device_put, arrays))))
    return found | {
        "scratch_mib": run.memory_analysis().temp_size_in_bytes / 2**20,
        "table_mib": sum(leaf.nbytes for leaf in jax.tree.leaves(table)) / 2**20,
        "prepare_s": prepared,
    }


SIDES = {"pycocoevalcap": score_peer, "capjax": score_capjax}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="number of runs of each side")
    parser.add_argument("--images", type=int, default=64, help="images of a call")
    parser.add_argument("--samples", type=int, default=5, help="hypotheses of an image")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process")
    arguments = parser.parse_args()
    if arguments.side:
        use_two_cores()
        found = SIDES[arguments.side](arguments.images, arguments.samples)
        print(json.dumps(found | {"peak_memory_mib": peak_memory_mib()}))
        return
    options = ["--images", str(arguments.images), "--samples", str(arguments.samples)]
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side, own in runs.items():
            own.append(measure("reward_speed", "--side", side, *options))
            print(side, own[-1], file=sys.stderr)
    figures = {side: medians(own) for side, own in runs.items()}
    print("| side | ms | ratio | peak MiB | scratch MiB | table MiB |\n" + "|---" * 6 + "|")
    for side, found in figures.items():
        ratio = figures["pycocoevalcap"]["ms"] / found["ms"]
        memory = f"{found.get('scratch_mib', 0):.1f} | {found.get('table_mib', 0):.1f}"
        print(
            f"| {side} | {found['ms']:.1f} | {ratio:.1f} | {found['peak_memory_mib']:.0f} "
            f"| {memory} |"
        )
    print(f"mean CIDEr-D: {', '.join(str(found['mean']) for found in figures.values())}")


if __name__ == "__main__":
    main()
