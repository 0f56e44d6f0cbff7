"""The tokenizer against Stanford's: its own jar where Java is found, and answers kept from it."""

import csv
import json
import random
import shutil
import subprocess
from pathlib import Path

import pycocoevalcap.tokenizer.ptbtokenizer as official
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capjax.metrics.ptb import PUNCTUATION, tokenize

CAPTIONS = Path(__file__).parents[3] / "shared" / "flickr8k" / "captions.txt"

# (caption, what PTBTokenizer 3.4.1 and coco-caption's filter make of it, joined by spaces)
FROZEN = [*map(json.loads, Path(__file__).with_name("stanford.jsonl").read_text().splitlines())]

# Pieces that random captions are made of: what the rules are about, and what breaks them.
PIECES = (
    *"abcdnstxyABNSTUZ0123459",
    *".,:;!?'\"`-_/\\&#@$%^*()[]{}<>=+~| \t\u00e9\u00c9\u2019\u2018\u201c\u201d\u2013\u2014",
    *"\u2026\u00bd\u00b2\u00b0\u00a3\u20ac\u65e5\u0436\u00ad\u00a0\u200b\u2605\u00ab\u00b4",
    *("n't", "'s", "'re", "'em", "'tis", "cannot", "gonna", "ol'", "o'clock", "y'", "&amp;"),
    *("&quot;", "&apos;", "&nbsp;", "&lt;", "&eacute;", "e.g.", "U.S.", "Mr.", "etc.", "No. "),
    *("Inc.", "Dept.", "Blvd.", "fig. ", "Pty. ", "Ltd.", "Korean-U.S.", "vs.", "az", "PTY"),
    *("a.m.", "http://", "www.", ".com", ".org/", ".txt", "foo@bar", "@me", "#tag", "<br/>"),
    *('<a b="c">', "555-1234", "(555) 123", "1 1/2", "3/4", "11-12-13", "1,000", "'99", "..."),
    *(". . .", "--", "---", ":)", ":-(", "^_^", "C++", "AT&T", "S&P-500", "-LRB-", "and/or"),
    *(" dog", " The ", " A ", " a man ", " t-shirt ", " 3-year-old ", "black-and-white"),
)


@pytest.mark.parametrize(("caption", "tokens"), FROZEN, ids=range(len(FROZEN)))
def test_answers_kept_from_stanford(caption: str, tokens: str) -> None:
    assert " ".join(tokenize(caption)) == tokens


@pytest.fixture(scope="module")
def stanford():
    """A function from captions to Stanford's tokens, punctuation dropped."""
    if shutil.which("java") is None:
        pytest.skip("no java: Stanford's tokenizer cannot run")
    jar = Path(official.__file__).parent / official.STANFORD_CORENLP_3_4_1_JAR

    def run(captions: list[str], between: str) -> list[list[str]]:
        done = subprocess.run(
            [
                *("java", "-XX:+UseSerialGC", "-cp", str(jar)),
                *("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"),
            ],
            input=between.join(captions).encode(),
            capture_output=True,
            check=True,
            timeout=120,
        )
        lines = done.stdout.decode().split("\n")[:: between.count("\n")]
        dropped = {*official.PUNCTUATIONS, ""}
        return [[w for w in line.rstrip().split(" ") if w not in dropped] for line in lines]

    return run


def differences(captions: list[str], expected: list[list[str]]) -> list[tuple]:
    assert len(expected) == len(captions)
    pairs = zip(captions, expected, strict=True)
    return [(c, e, tokenize(c)) for c, e in pairs if tokenize(c) != e]


def test_equals_stanford_on_real_captions(stanford) -> None:
    if not CAPTIONS.exists():
        pytest.skip("no shared/flickr8k/captions.txt beside the repository")
    with CAPTIONS.open(encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    assert len(captions) == 35000
    assert differences(captions, stanford(captions, "\n")) == []


def test_equals_stanford_on_nasty_strings(stanford) -> None:
    draw = random.Random(0)
    captions = [caption.replace("\n", " ") for caption, _ in FROZEN]
    captions += ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(6000)]
    # A line of its own between two keeps the lexer from looking ahead into the next one.
    assert differences(captions, stanford(captions, "\nx\n")) == []


@given(st.text())
def test_tokens_are_in_lower_case_and_no_punctuation(caption: str) -> None:
    tokens = tokenize(caption)
    assert not PUNCTUATION.intersection(tokens)
    assert all(token and " " not in token and token == token.lower() for token in tokens)


@given(st.lists(st.sampled_from(["Dogs", "run", "t-shirt", "don't", "3", "U.S.", "(", "\u00e9"])))
def test_white_space_between_words_never_matters(words: list[str]) -> None:
    expected = tokenize(" ".join(words))
    assert tokenize("\t " + "  ".join(words) + " ") == expected
    assert tokenize("\n".join(words)) == expected
    assert tokenize("\u3000".join(words)) == expected


def test_long_runs_take_no_more_than_quadratic_time() -> None:
    for run in ("a-", "a.", "<a ", "'", "a@", "www.", "1,", "\u00ad", "&", "(5", " / "):
        # Exponential backtracking would never come back.
        assert isinstance(tokenize(run * 300), list)
