"""The tokenizer against Stanford's: its own jar where Java is found, and answers kept from it."""

import csv
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
FROZEN = (
    (
        "A man isn't sure he can't , won't or cannot ride .",
        "a man is n't sure he ca n't wo n't or can not ride",
    ),
    (
        "I'm sure they've seen it's raining ; we'll go , he'd stay .",
        "i 'm sure they 've seen it 's raining we 'll go he 'd stay",
    ),
    (
        "She's gonna wanna get this : gimme , lemme , gotta go .",
        "she 's gon na wan na get this gim me lem me got ta go",
    ),
    ("'Tis a dog's ball , not the dogs' ball .", "'t is a dog 's ball not the dogs ball"),
    (
        "Y'all come at five o'clock for rock 'n' roll , c'mon , ma'am .",
        "y' all come at five o'clock for rock 'n' roll c'mon ma'am",
    ),
    (
        "I dunno , 'cause 'til then the '90s and '99 were fine .",
        "i dunno 'cause 'til then the '90s and '99 were fine",
    ),
    ("\"Hello,\" said the 'old' man .", "hello said the old man"),
    ("``Stop'' reads the sign .", "stop reads the sign"),
    (
        "\u201cCurly\u201d and \u2018single\u2019 quotes aren\u2019t dogs\u2019 work .",
        "curly and single quotes are n't dogs work",
    ),
    (
        "\u201c\u2018Nested\u2019\u201d quotes and \xab\xabguillemets\xbb\xbb",
        "``` nested ''' quotes and ```` guillemets ''''",
    ),
    (
        "don\u2018t and l\u2019amour , O\u2019Malley 's t-shirt",
        "do n`t and l\u2019amour o\u2019malley 's t-shirt",
    ),
    (
        "A dog - a puppy -- runs --- fast \u2014\u2014 really \u2013 yes",
        "a dog a puppy runs fast really yes",
    ),
    ("Wait ... what \u2026 no . . . oh .... dear", "wait what no oh dear"),
    ("-----", "-----"),
    ("Mr. and Mrs. Smith met Dr. No in St. Louis .", "mr. and mrs. smith met dr. no in st. louis"),
    (
        "The U.S. flag , e.g. at 5 p.m. , i.e. late , etc.",
        "the u.s. flag e.g. at 5 p.m. i.e. late etc.",
    ),
    (
        "Inc., Co., and Jan. 5 vs. Jr. vs. No. 5 vs. no. five",
        "inc. co. and jan. 5 vs. jr. vs. no. 5 vs. no five",
    ),
    ("Vitamin C.", "vitamin c."),
    ("Plan A. The men run .", "plan a the men run"),
    (
        "1,000.50 dogs , 3/4 of 1/2 , 50% at $5.00 and 5'10\" tall",
        "1,000.50 dogs 3/4 of 1/2 50 % at $ 5.00 and 5 10 tall",
    ),
    ("A 3-year-old in the 1990s at 7:30pm is #1", "a 3-year-old in the 1990s at 7:30 pm is # 1"),
    (
        "1 1/2 cups , \xbd cup , 1\xbd cups and \u215e cup",
        "1\xa01/2 cups 1/2 cup 1 1/2 cups and \u215e cup",
    ),
    ("\xa35 , \u20ac5 , \xa55 , \xa25 , US$5 and C$ 5", "# 5 $ 5 \xa5 5 cents 5 us$ 5 and c$ 5"),
    ("-5 , +5 , 1-2 , 1--2 , :5 and .5", "-5 +5 1-2 1 2 :5 and .5"),
    (
        "555-1234 or (555) 123-4567 or 800-555-1234",
        "555-1234 or -lrb-555-rrb-\xa0123-4567 or 800-555-1234",
    ),
    ("Date 11/12/2013 or 2013-01-02", "date 11/12/2013 or 2013-01-02"),
    ("({[()]})", "-lrb- -lcb- -lsb- -lrb- -rrb- -rsb- -rcb- -rrb-"),
    ("red/white and/or a/b/c/d w/o", "red/white and/or a/b/c / d w/o"),
    (
        "http://www.example.com/dogs. www.example.com example.com/a",
        "http://www.example.com/dogs www.example.com example.com / a",
    ),
    (
        "write to some.one@example.com , @handle , #hashtag and #tag2",
        "write to some.one@example.com @handle #hashtag and #tag 2",
    ),
    (
        "a smile :-) and :) and ;D and ^_^ but not :/",
        "a smile :--rrb- and :-rrb- and ;d and ^_^ but not /",
    ),
    ("Tom &amp; Jerry , AT&T , a & b , &lt;b&gt;", "tom & jerry at&t a & b < b >"),
    ("&quot;x&quot; &eacute;t&eacute; a&nbsp;b", "x &eacute;t&eacute; a b"),
    (
        '<b>bold</b> <br /> <a href="x y"> < a >',
        '<b> bold </b> <br\xa0/> <a\xa0href="x\xa0y"> < a >',
    ),
    (
        "dog\U0001f600 , \u263a , \u2605 , \u2192 and \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "dog \u263a \u2605 \u2192 and",
    ),
    (
        "caf\xe9 , na\xefve , \xdcbergr\xf6\xdfe , \u65e5\u672c , \u0639\u0631\u0628 \u0434",
        "caf\xe9 na\xefve \xfcbergr\xf6\xdfe \u65e5\u672c \u0639\u0631\u0628 \u0434",
    ),
    (
        "t-shirt , x-ray , co-operate , black-and-white , e-mail.",
        "t-shirt x-ray co-operate black-and-white e-mail",
    ),
    ("snake_case , _under_ , foo__bar", "snake_case _ under _ foo __ bar"),
    (
        "** stars ** and a*b , a+b , x=y , x==y , a|b , ~ , ^ and back\\slash",
        "** stars ** and a * b a + b x = y x = = y a | b ~ ^ and back \\ slash",
    ),
    ("What?! No!! Why? Stop!", "what ?! no !! why stop"),
    ("end.Next sentence!And another?yes", "end.next sentence!and another?yes"),
    ("file.txt and 3.mp3, dog.jpg", "file.txt and 3.mp3 dog.jpg"),
    ("a soft\xadhyphen , a zero\u200bwidth space", "a softhyphen a zero width space"),
    ("tab\tbetween\twords", "tab between words"),
    ("nbsp between and ideographic\u3000space", "nbsp between and ideographic space"),
    ("colour , favourite , grey and theatre", "colour favourite grey and theatre"),
    ("C++ , C# and f# code", "c++ c# and f# code"),
    ("pro-life , S&P-500 , C.D.s and -LRB-", "pro-life s&p-500 c.d.s and -lrb-"),
    ("IT'S A MAN'S T-SHIRT", "it 's a man 's t-shirt"),
    ("the boy , in blue , runs", "the boy in blue runs"),
    ("a man.", "a man"),
    ("   leading and trailing   ", "leading and trailing"),
    (",", ""),
    (".", ""),
    ("(", "-lrb-"),
    ("a \x07 control character", "a control character"),
    ("a girl's/boy's game", "a girl 's / boy 's game"),
    ("5\xb0 , 20\xb0C , m\xb2 , x\xb2 and 10\xb3", "5 \xb0 20 \xb0 c m \xb2 x \xb2 and 10 \xb3"),
    ("\xa9 \xae \u2122 \xa7 \xb6 \u2022 \xd7 \xf7", "\xa9 \xae \u2122 \xa7 \xb6 \u2022 \xd7 \xf7"),
    ("ph.D. , Ed.D. and a.k.a. Bob", "ph.d. ed.d. and a.k.a. bob"),
    ("n't", "n't"),
    ("x . , y ., z .; w.:", "x y z w."),
    ("a.,b", "a. b"),
    ("dog;cat:bird", "dog cat bird"),
    ("a&mdash;b &ndash; &HT; &#39; c", "a b &ht; &#39; c"),
    ("11/12-2013 and 1-2/13", "11/12-2013 and 1-2/13"),
    ("PTY. LTD. and Co. ltd", "pty. ltd. and co. ltd"),
    ("Canada-U.S and U.S.-U.K border", "canada-u.s and u.s.-u.k border"),
    ("don\u2019tx and x\u2019resx", "do n\u2019tx and x 're sx"),
    ("AT&T., A+B.; and A&b.", "at&t. a+b. and a & b."),
    ("a\u3001b \u3002 c", "a \u3001 b \u3002 c"),
    ("", ""),
    ("first line\nsecond line", "first line second line"),
)

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
