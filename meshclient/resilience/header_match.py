"""Whether headers meet a condition of a retry policy.

Looked at after failures and for response heads only; routes have their own,
compiled, matching.
"""

from __future__ import annotations

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import HeaderMatch, StringMatch


def header_matches(match: HeaderMatch, headers: HeaderMap, pseudo: dict[str, str]) -> bool:
    """Envoy's ``HeaderMatcher``: any one line may match, inverted: no line does.

    ``pseudo`` gives ``:status`` or ``:method``. A missing header fails every
    value test, even an inverted one, unless it counts as empty.
    Source: Envoy ``source/common/http/header_utility.cc``.
    """
    name = match.name
    values = [pseudo[name]] if name in pseudo else headers.get_all(name)
    if match.value is None and match.range is None:
        there = bool(values) or match.treat_missing_as_empty
        return (there == match.present) != match.invert
    if not values:
        if not match.treat_missing_as_empty:
            return False
        values = [""]
    return any(_value_matches(match, value) for value in values) != match.invert


def _value_matches(match: HeaderMatch, value: str) -> bool:
    if match.value is not None:
        return string_matches(match.value, value)
    assert match.range is not None
    number = _signed(value)
    return number is not None and match.range[0] <= number < match.range[1]


def string_matches(match: StringMatch, text: str) -> bool:
    """Envoy's ``StringMatcher``; ``ignore_case`` has no effect on regexes."""
    if match.kind == "regex":
        # Loading a regex engine is for policies that have a regex.
        from meshclient.model.regex import compile_regex

        return compile_regex(match.value).fullmatch(text)
    wanted = match.value
    if match.ignore_case:
        wanted, text = wanted.lower(), text.lower()
    if match.kind == "exact":
        return text == wanted
    if match.kind == "prefix":
        return text.startswith(wanted)
    return text.endswith(wanted) if match.kind == "suffix" else wanted in text


def _signed(text: str) -> int | None:
    """A base-10 signed 64-bit integer that fills the whole text, or None."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 40:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


__all__ = ["header_matches", "string_matches"]
