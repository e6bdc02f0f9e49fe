"""Tests on one text: Envoy's ``StringMatcher`` as a function, and its helpers.

Compiled once on the control thread; nothing here knows what the text is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from meshclient.model.matching import StringMatch
from meshclient.model.regex import compile_regex

TextTest = Callable[[str], bool]

_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
# absl::SimpleAtoi: white space around, a sign, decimal digits.
_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)[ \t\n\v\f\r]*", re.ASCII)


def ascii_lower(text: str) -> str:
    """Lower-case A-Z only, as ``absl::AsciiStrToLower`` (``À`` stays)."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


def path_only(path: str) -> str:
    """The path before ``?`` and ``#`` (``PathUtil::removeQueryAndFragment``)."""
    if "?" in path:
        path = path[: path.index("?")]
    if "#" in path:
        path = path[: path.index("#")]
    return path


def parse_integer(text: str, low: int, high: int) -> int | None:
    """A base-10 integer in ``[low, high]`` as ``absl::SimpleAtoi`` reads it, or None."""
    match = _INTEGER.fullmatch(text)
    # 20 digits are more than 64 bits hold; without the bound int() has no good one.
    if match is None or len(match[2]) > 20 or (low >= 0 and match[1] == "-"):
        return None
    value = int(match[1] + match[2])
    return value if low <= value <= high else None


def compile_text(match: StringMatch) -> TextTest:
    """The test as one function; raises ``RegexError`` for a bad regex.

    ``ignore_case`` has no effect on regexes, as in Envoy.
    """
    value = match.value
    if match.kind == "regex":
        return compile_regex(value).fullmatch
    if match.ignore_case:
        return _folded(match.kind, ascii_lower(value))
    if match.kind == "exact":
        return value.__eq__
    if match.kind == "prefix":
        return lambda text: text.startswith(value)
    if match.kind == "suffix":
        return lambda text: text.endswith(value)
    return lambda text: value in text


def _folded(kind: str, value: str) -> TextTest:
    if kind == "exact":
        return lambda text: ascii_lower(text) == value
    if kind == "prefix":
        return lambda text: ascii_lower(text).startswith(value)
    if kind == "suffix":
        return lambda text: ascii_lower(text).endswith(value)
    return lambda text: value in ascii_lower(text)
