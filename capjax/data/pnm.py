"""What a PNM holds, checked before Pillow reads it: it takes headers and texts a byte at a time.

Writing an artefact puts this file into its runner.py, in the place of the import.
"""

import os
import re
from typing import BinaryIO

# Bytes of a header with its comments.
_MOST_HEADER = 2**16
# Bytes and comments of a text, a second for each MiB.
_MOST_TEXT, _MOST_COMMENTS = 8 * 2**20, 100
_START = re.compile(rb"P[1-7fF][\s#]")
# Width and height; and of what is no bitmap the largest level, or the scale.
_NUMBER = rb"(?:\s|#[^\r\n]*[\r\n])+[^\s#]+"
_HEADER = re.compile(rb"P(?:[14](?:%b){2}|.(?:%b){3})\s" % (_NUMBER, _NUMBER))


def fault(file: BinaryIO) -> str | None:
    """The reason not to open a PNM that would take minutes; other files pass.

    Leaves the file at its beginning.
    """
    file.seek(0)
    head = file.read(_MOST_HEADER)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not _START.match(head):
        return None
    if len(head) == _MOST_HEADER and not _HEADER.match(head):
        return f"damaged PNM: its header is longer than {_MOST_HEADER} bytes"
    if head[1:2] in b"123":
        slow = size > _MOST_TEXT or file.read().count(b"#") > _MOST_COMMENTS
        file.seek(0)
        if slow:
            return (
                f"a PNM of {size} bytes of text, or more than {_MOST_COMMENTS} comments, takes too "
                "long to decode; save it in binary"
            )
    return None
