"""Memory while malformed captions are repeatedly read, tokenized and encoded.

    python -m benchmarks.ugly_captions --captions 10000 --rounds 5

Each round writes a table of captions, reads it, trains a tokenizer and encodes the captions. Prints
the resident memory of the process after each round, which must not grow after the first ones.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

from benchmarks.sides import peak_memory_mib
from capjax.data.captions import encode_captions, read_captions
from capjax.data.datasets.folder import Folder
from capjax.data.tokenizer import train_word_tokenizer
from capjax.metrics.ptb import tokenize

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PARTS = ("dog", "<eos>", "[PAD]", "\0", "\x1b[2J", "\u202eכלב", "e\u0301", "👩\u200d👧", "\ud83d")


def ugly(count: int, seed: int) -> list[str]:
    """Makes different captions of up to 10,000 words."""
    draw = random.Random(seed)
    return [
        f"{seed} {i} " + " ".join(draw.choices(_PARTS, k=10_000 if i % 500 == 0 else i % 40))
        for i in range(count)
    ]


def resident() -> float:
    """The resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6


def one_round(folder: Path, captions: list[str]) -> int:
    """Reads, tokenizes and encodes captions; returns the number of kept ones."""
    rows = [{"image": "a.jpg", "caption": text, "split": "train"} for text in captions]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Folder(str(folder / "rows.jsonl")).open("train")
    table = read_captions(source, None)
    tokenizer = train_word_tokenizer(text for image in table.captions for text in image)
    encoded = encode_captions(table, tokenizer, max_length=24, over_length="cut")
    for text in captions:
        tokenize(text)
    return encoded.report.kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=int, default=10_000, help="captions per round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.jpg").write_bytes(b"not read")
        print(f"before: {resident():.0f} MB")
        for number in range(arguments.rounds):
            captions = ugly(arguments.captions, number)
            start = time.perf_counter()
            kept = one_round(folder, captions)
            seconds = time.perf_counter() - start
            print(f"round {number}: {kept} kept, {resident():.0f} MB, {seconds:.1f} s")
    print(f"peak: {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
