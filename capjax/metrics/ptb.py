"""The PTB tokens of coco-caption, without Java.

coco-caption runs Stanford's `PTBTokenizer -preserveLines -lowerCase` (CoreNLP 3.4.1) and drops a
list of punctuation. Stanford's tokenizer is a lexer: at each position the rule with the longest
match wins, counting its lookahead, and the first of equal length. Here each rule is one regular
expression, and a faster expression matches the plain words that make up most of a caption.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

from capjax.metrics.ptb_tables import (
    CURRENCY,
    CURRENCY_NAMES,
    DIGIT,
    ENDS_CLAUSE,
    FILE_ENDINGS,
    FRACTIONS,
    LETTER,
    MARK,
    NAMED_INITIALS,
    NEWLINE,
    OPENERS,
    PRECEDES_NAME,
    PRECEDES_NUMBER,
    SPACE,
    SYMBOL,
)

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:-;", "--", "..."]
)
"""Tokens that coco-caption drops. (Its brackets never match lower-cased tokens.)"""

_BRACKETS = {
    "(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"
}  # fmt: skip
_SINGLE_QUOTE = str.maketrans(
    dict.fromkeys("\x91\u2018\u201b\u2039", "`") | dict.fromkeys("\x92\u2019\u203a", "'")
)
_DOUBLE_QUOTE = {
    '"': "''", "\x93": "``", "\u201c": "``", "\u00ab": "``",
    "\x94": "''", "\u201d": "''", "\u00bb": "''",
}  # fmt: skip


def _quote(text: str) -> str:
    text = text.replace("&apos;", "'").replace("&quot;", "''").translate(_SINGLE_QUOTE)
    return "".join(_DOUBLE_QUOTE.get(char, char) for char in text)


def _soft(text: str) -> str:
    return text.replace("\u00ad", "") or "-"


def _ampersand(text: str) -> str:
    return re.sub("&amp;", "&", text, flags=re.IGNORECASE)


def _dashes(text: str) -> str:
    return "--" if 3 <= len(text) <= 4 else text


def _unspaced(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _parentheses(text: str) -> str:
    return text.replace("(", "-LRB-").replace(")", "-RRB-")


def _phone(text: str) -> str:
    return _unspaced(_parentheses(text))


@dataclasses.dataclass(frozen=True)
class _Rule:
    """A rule of the lexer.

    Attributes:
      text: its pattern.
      spell: maps the token to the Treebank's spelling.
    """

    text: str
    spell: Callable[[str], str] = str

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the token and its lookahead.

        The token is the group that matched, or the whole match if the pattern has no group.
        Compiled at the first use, which takes as long as the import of a library.
        """
        return re.compile(self.text)


# Parts of rules. `(?i:...)` where the lexer ignores case, which it never does in brackets.
_W = f"(?:[{LETTER}{MARK}]|&[aeiouAEIOU](?i:acute|grave|uml);)"
_WD = f"(?:[{LETTER}{MARK}{DIGIT}]|&[aeiouAEIOU](?i:acute|grave|uml);)"
_WORD = f"{_W}{_WD}*(?:[.!?]{_W}{_WD}*)*"
_AN = f"[{LETTER}{DIGIT}]"
_APOS = "(?:['\x92\u2019]|(?i:&apos;))"
_ANY_APOS = "(?:['\x92\u2019`\x91\u2018\u201b]|(?i:&apos;))"
_AUX = f"{_APOS}(?:[msdMSD]|(?i:re|ve|ll))"
_NOT = f"(?i:n){_ANY_APOS}(?i:t)"
_NUM = f"[{DIGIT}]*(?:[.:,\u00ad\u066b\u066c][{DIGIT}]+)+|[{DIGIT}]+"
_HYPHEN = "[-_\u058a\u2010\u2011]"
_ELIDED = f"(?:[dDoOlL]{_ANY_APOS}{_AN})?"
_THING = f"{_ELIDED}{_AN}+(?:{_HYPHEN}{_ELIDED}{_AN}+)*"
_S = f"[{SPACE}]"
_SN = f"[{SPACE}{NEWLINE}]"
_CLAUSE = "[,;:\u3001]"
_SLASHED = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_TAG = (
    f"<(?:[!?][A-Za-z-][^>\r\n]*|/{_NAME}"
    f"|{_NAME}(?: +{_NAME}(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"))?)* */?) *>"
)
_SITE = (
    '(?:(?i:www)\\.(?:[^ \t\n\f\r"<>|.!?(){},]+\\.)+[a-zA-Z]{2,4}'
    "|(?:[^ \t\n\f\r\"`'<>|.!?(){},-_$]+\\.)+(?i:com|net|org|edu))"
)
_JOINED_CAPITALS = "[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+"
_INITIALS = f"(?:{NAMED_INITIALS}|[A-Za-z](?:\\.[A-Za-z])*)"
_MANY_INITIALS = f"(?:{NAMED_INITIALS}|[A-Za-z](?:\\.[A-Za-z])+)"
_HYPHENATED = f"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_MANY_INITIALS}\\.|[A-Za-z0-9\u00ad]+))+"

_RULES = (
    _Rule(f"(?:[{SPACE}]|(?i:&nbsp;))+", lambda _: ""),
    # Contractions that are split in two, and words.
    _Rule(r"(?i:c\+\+|[cf]#)"),
    _Rule("(?i:(can)not|('t)was)"),
    _Rule("(?i:('t)is|(gon|wan)na|(got)ta|(lem|gim)me)"),
    _Rule(_TAG, _unspaced),
    _Rule("(?i:&(?:MD|mdash|ndash);)|[\x96\x97\u2013-\u2015]", lambda _: "--"),
    _Rule("(?i:&amp;)", _ampersand),
    _Rule("(?i:&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);)"),
    _Rule(f"({_WORD}){_AUX}", _soft),
    _Rule(f"([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*){_NOT}", _soft),
    _Rule(_WORD, _soft),
    _Rule(
        f"[A-HJ-XZn]{_ANY_APOS}[{LETTER}]{{2,}}|{_APOS}[2-9](?i:0s)|{_APOS}(?i:till?)"
        f"|[{LETTER}]+[aeiouyAEIOUY]{_ANY_APOS}[aeiouA-Z][{LETTER}]*|{_APOS}(?i:cause)"
        "|(?i:cont'd\\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)"
        f"|(?i:o){_ANY_APOS}(?i:o)",
    ),
    _Rule(f"{_APOS}(?i:n){_APOS}?|[lLdDjJ]{_APOS}|(?i:dunkin|somethin|ol){_APOS}|{_APOS}(?i:em)"),
    _Rule(f"((?i:y){_APOS})[{LETTER}]"),
    # Addresses.
    _Rule('(?i:https?)://[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"<>|.!?(){},-]'),
    _Rule(_SITE + '/[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},-]'),
    _Rule(_SITE),
    _Rule(
        '(?:(?i:&lt;)|<)?[a-zA-Z0-9][^ \t\n\f\r"<>|()\u00a0{}]*@'
        '(?:[^ \t\n\f\r"<>|(){}.\u00a0]+\\.)*[^ \t\n\f\r"<>|(){}.\u00a0]+(?:(?i:&gt;)|>)?'
    ),
    _Rule(f"@[A-Za-z_][A-Za-z0-9_]*|\\#{_W}+"),
    # Parts of contractions after the split.
    _Rule(f"({_AUX})[^A-Za-z]", _quote),
    _Rule(f"({_NOT})[^A-Za-z]", _quote),
    # Numbers.
    _Rule(f"[{DIGIT}]{{1,2}}[-/][{DIGIT}]{{1,2}}[-/][{DIGIT}]{{2,4}}"),
    _Rule(f"[-+]?(?:{_NUM})", _soft),
    _Rule(
        "[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"
    ),
    _Rule(
        f"(?:[{DIGIT}]{{1,4}}[- \u00a0])?[{DIGIT}]{{1,4}}(?:\\\\?/|\u2044)[{DIGIT}]{{1,4}}",
        _unspaced,
    ),
    _Rule("[\u00bc-\u00be\u2153-\u215e]", lambda text: FRACTIONS.get(text, text)),
    _Rule(
        "(?i:-[rl][rcs]b-|c\\.d\\.s|pro-|anti-|s(?:&|&amp;)p-500|s(?:&|&amp;)ls)"
        f"|(?i:cap){_APOS}(?i:n)|(?i:c){_APOS}(?i:est)",
        _ampersand,
    ),
    _Rule(f"({_APOS}[0-9][0-9]){_SN}"),
    _Rule(f"{_SLASHED}(?:\\\\?/{_SLASHED}){{1,2}}"),
    _Rule("[A-Z]*\\$|\\#"),
    _Rule(f"[{CURRENCY}]", lambda text: CURRENCY_NAMES.get(text, text)),
    # Abbreviations.
    _Rule(f"([A-Za-z])\\.{_SN}+(?:{OPENERS}|{_TAG}){_SN}"),
    _Rule(f"((?i:{PRECEDES_NUMBER})\\.){_SN}?[{DIGIT}]"),
    _Rule(f"((?i:pt[ey]|co)\\.){_S}(?i:ltd|lim)"),
    _Rule(f"((?i:{ENDS_CLAUSE})\\.)(?s:..)?"),
    _Rule(f"(?:{_INITIALS}|(?i:{PRECEDES_NAME}))\\."),
    _Rule(f"({_INITIALS}){_SN}"),
    _Rule(f"({_WD}+(?:\\.{_WD}+)*\\.(?i:{FILE_ENDINGS}))[{SPACE}{NEWLINE}.?!,]"),
    _Rule(f"({_WORD}\\.){_CLAUSE}", _soft),
    _Rule(
        "(?:\\([0-9]{2,3}\\)[ \u00a0]?|(?:\\+\\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
        "[0-9]{3,4}[- \u00a0]?[0-9]{3,5}"
        "|(?:(?:\\+\\+?)?[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5}",
        _phone,
    ),
    # Signs.
    _Rule("(')[A-Za-z][^ \t\n\r\u00a0]"),
    _Rule(_AUX, _quote),
    _Rule("\"|(?i:&quot;)|''", _quote),
    _Rule("<<|>>"),
    _Rule("(?i:&lt;)|<", lambda _: "<"),
    _Rule("(?i:&gt;)|>", lambda _: ">"),
    _Rule("([<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]])[^A-Za-z0-9]", _parentheses),
    _Rule(
        "[-^x=~<>']_[-^x=~<>']|\\([-^x=~<>'][_.]?[-^x=~<>']\\)|\\([\\^x=~<>']-[\\^x=~<>'`]\\)",
        _parentheses,
    ),
    _Rule("[(){}\\[\\]]", lambda text: _BRACKETS[text]),
    _Rule("-+", _dashes),
    _Rule("\\.{3,5}|[\x85\u2026]|\\.[ \u00a0](?:\\.[ \u00a0])+\\.", lambda _: "..."),
    _Rule("@+|\\#+|_+"),
    _Rule("\\*+|(?:\\\\\\*){1,3}"),
    _Rule("[?!]+|[.,:;=/]"),
    # Compounds.
    _Rule(_HYPHENATED, _soft),
    _Rule(f"({_HYPHENATED}\\.){_CLAUSE}", _soft),
    _Rule(f"({_THING}\\.){_CLAUSE}"),
    _Rule(_THING),
    _Rule(f"({_JOINED_CAPITALS}\\.){_CLAUSE}", _ampersand),
    _Rule(_JOINED_CAPITALS, _ampersand),
    _Rule(f"[`\x91-\x94\u2018-\u201f\u2039\u203a\u00ab\u00bb]{{1,2}}|{_APOS}", _quote),
    _Rule(f"[{SYMBOL}]"),
)

_PLAIN = re.compile("[A-Za-z]+(?=[ \n])|,(?=[ \n])|\\.(?=\n)")
# Bounds the match of a rule, which could otherwise scan to the end of the text at each position, so
# that time is linear. A longer token, which no caption has, is split.
_LONGEST_TOKEN = 300
_CUT_ANYWAY = frozenset(["cannot", "gonna", "wanna", "gotta", "lemme", "gimme"])
_BLANK = re.compile(f"(?:[ \t]++(?![{SPACE}]|(?i:&nbsp;)))?")
_LINE_BREAK = re.compile(f"[{NEWLINE}]")


def _longest(text: str, start: int) -> tuple[str, int]:
    """The token at `start` and its end; the token is "" if no rule matches."""
    end = start + _LONGEST_TOKEN
    best, reach = None, start
    for rule in _RULES:
        match = rule.pattern.match(text, start, end)
        if match and match.end() > reach:
            best, reach = (match, rule), match.end()
    if best is None:  # a control character, an emoji, an unassigned code
        return "", start + 1
    match, rule = best
    end = match.end(match.lastindex or 0)
    return rule.spell(text[start:end]), end


def _after_blank(text: str, start: int) -> int:
    blank = _BLANK.match(text, start)
    return blank.end() if blank else start


def tokenize(caption: str) -> list[str]:
    """Tokens of a caption as from coco-caption's PTBTokenizer, in lower case.

    A line break of any kind counts as a space. If a caption ends in a letter and a period, such as
    "vitamin C.", Stanford's tokenizer looks ahead into the next caption of its file; here it sees
    an empty line. Known differences: letters added after Unicode 6.1 are kept, not dropped, and a
    web address that is a single emoji is not an address.
    """
    text = _LINE_BREAK.sub(" ", caption) + "\n"
    tokens, last = [], len(text) - 1
    at = _after_blank(text, 0)
    while at < last:
        plain = _PLAIN.match(text, at)
        if plain and plain[0].lower() not in _CUT_ANYWAY:
            token, at = plain[0], plain.end()
        else:
            token, at = _longest(text, at)
        tokens.append(token)
        at = _after_blank(text, at)
    # coco-caption splits a stripped line, so white space within a token splits it too.
    words = " ".join(tokens).lower().rstrip().split(" ")
    return [word for word in words if word and word not in PUNCTUATION]
