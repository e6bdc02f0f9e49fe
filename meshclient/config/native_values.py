"""Small shared readers of the native policy file: percentages, matchers, regexes, header edits.

Each takes a Reader and gives a model value, or None with a diagnostic recorded.
Reads nothing that belongs to one section only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from meshclient.config.reader import Reader, wire_text
from meshclient.model.endpoint import NO_LOCALITY, Locality
from meshclient.model.format_string import FormatError, parse_format
from meshclient.model.matching import Fraction, StringMatch
from meshclient.model.regex import RegexError, compile_regex
from meshclient.model.routes import (
    NO_OPERATIONS,
    HeaderChange,
    HeaderOperations,
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_MATCH_KINDS: tuple[Literal["exact", "prefix", "suffix", "contains", "regex"], ...] = (
    "exact",
    "prefix",
    "suffix",
    "contains",
    "regex",
)

#: Called at the end of each section with its reader and its name; tests listen here.
section_listeners: list[Callable[[Reader, str], None]] = []


def finish(r: Reader, section: str) -> None:
    """Report unknown keys of a section of :data:`~meshclient.config.native_fields.SECTIONS`."""
    for listener in section_listeners:
        listener(r, section)
    r.finish(section.replace("_", " ") if section != "file" else "a native policy file")


def required(r: Reader, name: str) -> Reader | None:
    """The field, or an error that it is missing."""
    child = r.field(name)
    if child is None and r.is_mapping:
        r.error(f'"{name}" is missing', code="missing-field")
    return child


def text_of(r: Reader, name: str, default: str = "") -> str:
    """A text that must not be empty when it is given."""
    child = r.field(name)
    if child is None:
        return default
    text = child.string()
    if text == "":
        child.error("must not be empty")
    return text or default


def flag_of(r: Reader, name: str, default: bool = False) -> bool:
    """A boolean."""
    child = r.field(name)
    value = child.boolean() if child is not None else None
    return default if value is None else value


def integer_of(r: Reader, name: str, default: int, least: int = 1, most: int = 2**32 - 1) -> int:
    """A whole number."""
    child = r.field(name)
    value = child.integer(least, most) if child is not None else None
    return default if value is None else value


def seconds_of(r: Reader, name: str, default: float) -> float:
    """A duration above zero."""
    child = r.field(name)
    value = child.go_duration() if child is not None else None
    return default if value is None else value


def limit_of(r: Reader, name: str, default: float | None) -> float | None:
    """A duration where 0 means none."""
    child = r.field(name)
    if child is None:
        return default
    value = child.go_duration(allow_zero=True)
    return default if value is None else value or None


def one_or_many(r: Reader) -> list[Reader]:
    """The elements of a list, or the single value itself."""
    return r.elements() if r.is_list else [r]


def fraction(r: Reader) -> Fraction | None:
    """A percentage; resolution 0.0001 %."""
    percent = r.number(0, 100)
    if percent is None:
        return None
    if percent == int(percent):
        return Fraction(int(percent))
    return Fraction(round(percent * 10_000), 1_000_000)


def fraction_of(r: Reader, name: str) -> Fraction:
    """A percentage field; absent means always."""
    child = r.field(name)
    value = fraction(child) if child is not None else None
    return Fraction(100) if value is None else value


def regex(r: Reader) -> str | None:
    """An RE2 pattern that compiles."""
    pattern = r.string()
    if pattern is None:
        return None
    wire = wire_text(pattern)
    try:
        compile_regex(wire)
    except RegexError as why:
        r.error(str(why), code="regex")
        return None
    return wire


def substitution(r: Reader) -> tuple[str, str] | None:
    """Pattern and replacement, checked against each other."""
    pattern_reader, value_reader = required(r, "pattern"), required(r, "value")
    finish(r, "substitution")
    if pattern_reader is None or value_reader is None:
        return None
    pattern, value = regex(pattern_reader), value_reader.string()
    if pattern is None or value is None:
        return None
    try:
        compile_regex(pattern).check_rewrite(wire_text(value))
    except RegexError as why:
        value_reader.error(str(why), code="regex")
        return None
    return pattern, wire_text(value)


def header_name(name: str, at: Reader) -> str | None:
    """A valid header name, lower-case; else an error at ``at``."""
    if _TOKEN.fullmatch(name):
        return name.lower()
    at.error(f"{name[:80]!a} is not a header name")
    return None


def string_match(r: Reader, *, section: str = "") -> StringMatch | None:
    """``text`` (exact) or one of exact, prefix, suffix, contains, regex.

    With ``section`` the keys of that section are finished here; without it the
    caller does so, and None without an error means that none of them is given.
    """
    if not r.is_mapping:
        text = r.string()
        return None if text is None else StringMatch("exact", wire_text(text))
    found: StringMatch | None = None
    ignore_case = flag_of(r, "ignore_case")
    for kind in _MATCH_KINDS:
        child = r.field(kind)
        if child is None:
            continue
        text = regex(child) if kind == "regex" else child.string()
        if found is not None:
            child.error(f'give only one of "{found.kind}" and "{kind}"', code="conflict")
        elif text is not None:
            value = text if kind == "regex" else wire_text(text)
            found = StringMatch(kind, value, ignore_case and kind != "regex")
            if kind == "regex" and ignore_case:
                r.error("ignore_case has no effect on regex", suggestion="begin it with (?i)")
    if section:
        finish(r, section)
    return found


def header_edits(r: Reader | None) -> HeaderOperations:
    """``set``, ``add`` and ``remove``; removals first, then set, then add."""
    if r is None:
        return NO_OPERATIONS
    changes: list[HeaderChange] = []
    set_reader, add_reader, remove_reader = r.field("set"), r.field("add"), r.field("remove")
    if set_reader is not None:
        for name, value in set_reader.items():
            changes.extend(_change(name, value, "overwrite"))
    if add_reader is not None:
        for name, values in add_reader.items():
            for value in one_or_many(values):
                changes.extend(_change(name, value, "append"))
    removed: list[str] = []
    for item in remove_reader.elements() if remove_reader is not None else []:
        text = item.string()
        edited = _editable(text, item) if text is not None else None
        if edited is not None:
            removed.append(edited)
    finish(r, "header_edits")
    return HeaderOperations(tuple(removed), tuple(changes))


def _change(name: str, r: Reader, action: Literal["append", "overwrite"]) -> list[HeaderChange]:
    edited, value = _editable(name, r), r.string()
    if edited is None or value is None:
        return []
    if any(c in value for c in "\r\n\0"):
        r.error("a header value cannot contain line breaks or NUL")
        return []
    wire = wire_text(value)
    try:
        parse_format(wire)
    except FormatError as why:
        r.error(str(why), code="format", suggestion="write %% for a percent sign")
        return []
    return [HeaderChange(edited, wire, action)]


def _editable(name: str, at: Reader) -> str | None:
    """Envoy refuses edits of pseudo headers and of Host (``header_parser.cc``)."""
    if name.lower() == "host" or name.startswith(":"):
        at.error(f"{name} cannot be edited here", suggestion="use rewrite: {host: ...}")
        return None
    return header_name(name, at)


def locality(r: Reader | None) -> Locality:
    """``region/zone/sub_zone``, or a mapping with these keys."""
    if r is None:
        return NO_LOCALITY
    if r.is_mapping:
        parts = [text_of(r, key) for key in ("region", "zone", "sub_zone")]
        finish(r, "locality")
        return Locality(*parts)
    text = r.string()
    if text is None:
        return NO_LOCALITY
    split = text.split("/")
    if len(split) > 3:
        r.error("a locality has at most three parts: region/zone/sub_zone")
        return NO_LOCALITY
    return Locality(*split)
