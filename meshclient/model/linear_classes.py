"""Character classes of RE2 in Latin-1, as bit masks of 256 bits.

Tables and their three helpers; knows nothing of patterns.
"""

from __future__ import annotations

ALL_BYTES = (1 << 256) - 1


def bit(char: str) -> int:
    """The mask of one character (U+0000 to U+00FF)."""
    return 1 << ord(char)


def span(low: str, high: str) -> int:
    """The mask of ``low`` to ``high``, both included."""
    return (1 << (ord(high) + 1)) - (1 << ord(low))


def _union(*items: str) -> int:
    mask = 0
    for item in items:
        mask |= span(item[0], item[-1])
    return mask


def fold(mask: int) -> int:
    """Add the other case of every ASCII letter: all that RE2 folds in Latin-1."""
    uppers = span("A", "Z")
    return mask | (mask & uppers) << 32 | (mask >> 32) & uppers


_DIGIT = _union("09")
_WORD = _union("09", "AZ", "az", "__")
#: Perl's ``\s`` has no vertical tab in RE2; ``[[:space:]]`` has.
_PERL_SPACE = _union("\t\n", "\f\r", "  ")

PERL_CLASSES = {
    "d": _DIGIT,
    "D": ALL_BYTES & ~_DIGIT,
    "s": _PERL_SPACE,
    "S": ALL_BYTES & ~_PERL_SPACE,
    "w": _WORD,
    "W": ALL_BYTES & ~_WORD,
}

POSIX_CLASSES = {
    "alnum": _union("09", "AZ", "az"),
    "alpha": _union("AZ", "az"),
    "ascii": _union("\x00\x7f"),
    "blank": _union("\t\t", "  "),
    "cntrl": _union("\x00\x1f", "\x7f\x7f"),
    "digit": _DIGIT,
    "graph": _union("!~"),
    "lower": _union("az"),
    "print": _union(" ~"),
    "punct": _union("!/", ":@", "[`", "{~"),
    "space": _union("\t\r", "  "),
    "upper": _union("AZ"),
    "word": _WORD,
    "xdigit": _union("09", "AF", "af"),
}

SIMPLE_ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

WORD_MASK = _WORD
