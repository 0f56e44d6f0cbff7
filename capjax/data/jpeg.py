"""A look through a JPEG's scans before it is decoded, for what libjpeg does not refuse."""

import re

# libjpeg decodes each scan over all pixels, so that a small file of thousands takes hours. Common
# progressive files have 10, the most elaborate encoders write some dozens.
MAX_SCANS = 100

# In entropy-coded data FF 00 is the byte FF, and D0 to D7 are restart markers (ITU T.81, B.1.1).
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START, _END, _TABLES, _SCAN, _TEMPORARY = 0xD8, 0xD9, 0xC4, 0xDA, 0x01
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
# A lost sector is 512.
_HOLE = bytes(256)


def fault(content: bytes) -> str | None:
    """The reason not to use a JPEG, if it has too many scans or a hole filled with zeros.

    Zeros are what a broken disk or an unfinished download leaves. libjpeg takes them as codes:
    usually as coefficients of -1 at every frequency of block after block, which no picture has.
    """
    if content.count(b"\xff\xda") <= MAX_SCANS and _HOLE not in content:
        return None  # As of nearly all files, at once.
    at, scans, huffman, all_zeros = 0, 0, False, {}
    marker = _MARKER.search(content)
    while marker and (kind := marker[1][0]) != _END:
        at = marker.end()
        if kind not in (_START, _TEMPORARY):
            length = int.from_bytes(content[at : at + 2])
            segment = content[at + 2 : at + length]
            at += length
        marker = _MARKER.search(content, at)
        if kind in _HUFFMAN_FRAMES:
            huffman = True
        elif kind == _TABLES:
            all_zeros |= _symbols_of_zeros(segment)
        elif kind == _SCAN:
            scans += 1
            if scans > MAX_SCANS:
                return f"a JPEG of more than {MAX_SCANS} scans, which takes too long to decode"
            hole = content.find(_HOLE, at, marker.start() if marker else len(content))
            if hole >= 0 and huffman and not _may_be_zeros(segment, all_zeros):
                return f"damaged JPEG: its pixels are overwritten with zeros from byte {hole} on"
    return None


def _symbols_of_zeros(segment: bytes) -> dict[int, int]:
    """The symbol of each AC Huffman table whose code has zeros alone, by the table's number."""
    found, at = {}, 0
    while at + 17 < len(segment):
        table, counts = segment[at], segment[at + 1 : at + 17]
        if table >> 4 == 1:
            found[table & 15] = segment[at + 17]
        at += 17 + sum(counts)
    return found


def _may_be_zeros(scan: bytes, all_zeros: dict[int, int]) -> bool:
    """True if zeros may be the codes of equal blocks, such as those of a white background.

    Args:
      scan: a scan's header: the number of components; for each its id and tables; the first and
        last frequency; and which bits, of which libjpeg has at most 1000 without a code between.
      all_zeros: from `_symbols_of_zeros`.
    """
    if len(scan) < 6 or len(scan) < 4 + 2 * scan[0]:
        return True
    first, last = scan[-3:-1]
    if last <= max(first, 1):  # Of means alone, or of a single coefficient, many can be equal.
        return True
    symbols = [all_zeros.get(tables & 15, 0) for tables in scan[2 : 1 + 2 * scan[0] : 2]]
    # A symbol is the zeros before a coefficient and the bits of it; without bits the block ends,
    # but for 15 zeros.
    return all(symbol & 15 == 0 and symbol >> 4 < 15 for symbol in symbols)
