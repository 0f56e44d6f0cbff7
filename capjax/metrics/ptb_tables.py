"""Character classes and word lists of Stanford's PTBTokenizer 3.4.1.

They were determined by running coco-caption's jar over every character of the Basic Multilingual
Plane and over word lists, guided by the grammar published with CoreNLP (`PTBLexer.flex`).

A character class is the content of a regular expression's brackets; a word list is the content of
a group that ignores case, except within `(?-i:...)`.
"""

import unicodedata


def _category(prefix: str) -> str:
    """The characters of a Unicode category, with runs as ranges."""
    runs: list[list[int]] = []
    for code in range(0x10000):  # the lexer reads UTF-16 units, so no other character has a class
        if not unicodedata.category(chr(code)).startswith(prefix):
            continue
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in runs)


LETTER = _category("L") + "\u1885\u1886"
"""Letters of Unicode. (The jar has Unicode 6.1 and drops letters added later.)"""

DIGIT = _category("Nd") + "\u07c0-\u07c9"
"""Decimal digits of Unicode."""

MARK = (
    "\u00ad\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0378\u0379\u0384"
    "\u0385\u03f6\u0483-\u0487\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4\u06e7-\u06ed\u06fd\u06fe\u070f\u0711"
    "\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955"
    "\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3"
    "\u0a01-\u0a03\u0a3c\u0a3e-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2"
    "\u0bc6-\u0bc8\u0bca-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31"
    "\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
)
"""Non-letters that can be part of a word: the soft hyphen, vowel signs, accents."""

SPACE = " \t\u00a0\u2000-\u200a\u3000"
"""White space within a line."""

NEWLINE = "\n\r\x0b\x0c\u2028\u2029"
"""Characters that end a line."""

SYMBOL = (
    r"%+&~^|\\\u00a1\u00a6-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bf\u00d7\u00f7\u037e\u0387"
    r"\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060a\u060c\u0614\u061b"
    r"\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8\u0964\u0965\u0e4f\u1fbd\u2016"
    r"\u2017\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u207a-\u207e\u208a-\u208e"
    r"\u2100-\u214f\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20"
    r"\uff3b-\uff40\uff5b-\uff65"
)
"""Symbols that are tokens by themselves."""

CURRENCY = "\x80\u00a2-\u00a5\u060b\u0e3f\u20a0\u20a4\u20ac\uffe0\uffe1\uffe5\uffe6"
"""Currency signs other than the dollar."""

CURRENCY_NAMES = {
    "\u00a2": "cents",
    "\u00a3": "#",
    "\u00a4": "$",
    "\x80": "$",
    "\u20a0": "$",
    "\u20ac": "$",
}
"""The Treebank's spelling of some currency signs."""

FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
"""One-character fractions that are spelt out; others are unchanged."""

ENDS_CLAUSE = (
    "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu|Thurs|Fri"
    "|Ala|Ariz|(?-i:A)z|(?-i:A)rk|Calif|Colo|Conn|Ct|Dak|(?-i:D)el|Fla|Ga|(?-i:I)ll|Ind"
    "|Kans?|Ky|(?-i:L)a"
    "|(?-i:M)ass|Md|Mich|Minn|(?-i:M)iss|Mo|Mont|Neb|Nev|Okla|(?-i:O)re|(?-i:P)a|Penn|Tenn|(?-i:T)ex|Va|Vt|(?-i:W)ash|Wisc?"
    "|Wyo|Inc|Cos?|Corp|Pp?t(?-i:[ye])s?|Ltd|Plc|Rt|Blvd|Rd|Bancorp|Bhd|Assn|Univ|Intl|Sys"
    "|tel|est|ext|sq|Jr|Sr|Bros|Ed\\.D|Ph\\.D|Esq|etc|al|seq|Bldg"
)
"""Abbreviations that can end a clause."""

NAMED_INITIALS = r"(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-U\.(?:K|S\.S\.R))"
"""Compounds of initials."""

PRECEDES_NAME = (
    "Mrs?|Ms|(?-i:M)iss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt"
    "|Cpl|Pvt|Capt|Ste?|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens"
    "|Insp|Mlle|Mme|Msgr|Sfc|Dept|Invt|Elec|Natl|M(?-i:[ft])g|vs|Alex|Wm|Jos|Cie|cf"
    "|TREAS|Ph"
)
"""Abbreviations that seldom end a clause."""

PRECEDES_NUMBER = "ca|figs?|prop|nos?|art|bldg|pp|op"
"""Abbreviations only before a number."""

OPENERS = (
    "About|According|Additionally|After|An|A|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last"
    "|Many|More|Mr\\.|Ms\\.|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then"
    "|There|These|They|This|We|When|While|What|Yet|You"
)
"""Case-sensitive words that begin a sentence; a letter and period before one are two tokens."""

FILE_ENDINGS = (
    "bat|bmp|class|cgi|cpp|c|docx|doc|dll|exe|gif|gz|html|htm|h|java|jar|jpeg|jpg|mov|mp3|pdf"
    "|php|pl|png|ppt|ps|py|sql|tar|txt|wav|xml|x|zip"
)
"""Extensions of file names."""
