"""ORCA: the load that a server reports in its response's headers or trailers.

Header text to a :class:`LoadReport`. Bounded; a report that is malformed in any part
does not exist. What a report is used for is not known here.
Source: Envoy ``source/common/orca/orca_parser.cc``; ``xds.data.orca.v3.OrcaLoadReport``.
"""

from __future__ import annotations

import binascii
import json
import struct
from base64 import b64decode
from collections.abc import Callable, Sequence
from math import isfinite

from meshclient.model.headers import HeaderMap
from meshclient.model.protobuf import fields

HEADER = "endpoint-load-metrics"
BINARY_HEADER = "endpoint-load-metrics-bin"

#: Most characters of a report's header, and most named entries in a report.
MAX_CHARACTERS = 16_384
MAX_ENTRIES = 256

_FIELDS = ("cpu_utilization", "mem_utilization", "rps_fractional", "eps", "application_utilization")
_MAPS = ("request_cost", "utilization", "named_metrics")
#: Maps that the text format can fill.
_TEXT_MAPS = ("named_metrics", "utilization")
#: Field numbers of the protocol buffer.
_NUMBERS = {
    1: "cpu_utilization",
    2: "mem_utilization",
    4: "request_cost",
    5: "utilization",
    6: "rps_fractional",
    7: "eps",
    8: "named_metrics",
    9: "application_utilization",
}


class Malformed(ValueError):
    """A report that cannot be read; the message says why."""


class LoadReport:
    """One report. What was not said is 0; every number is finite."""

    __slots__ = (*_FIELDS, *_MAPS)

    def __init__(self) -> None:
        self.cpu_utilization = 0.0
        self.mem_utilization = 0.0
        self.rps_fractional = 0.0
        self.eps = 0.0
        self.application_utilization = 0.0
        self.request_cost: dict[str, float] = {}
        self.utilization: dict[str, float] = {}
        self.named_metrics: dict[str, float] = {}

    def put(self, name: str, value: float) -> None:
        """Set a plain field. Raises :class:`Malformed` unless ``value`` is finite."""
        if not isfinite(value):
            raise Malformed(f"{name} is not a finite number")
        setattr(self, name, value)

    def put_entry(self, name: str, key: str, value: float) -> None:
        """Set an entry of a map. Raises :class:`Malformed`."""
        entries: dict[str, float] = getattr(self, name)
        if not key or not isfinite(value):
            raise Malformed(f"{name} has an entry without a name or a finite number")
        if len(entries) >= MAX_ENTRIES:
            raise Malformed(f"{name} has more than {MAX_ENTRIES} entries")
        entries[key] = value

    def largest(self, names: Sequence[str]) -> float:
        """The largest of some metrics: ``cpu_utilization``, ``named_metrics.x``,
        ``utilization.*`` (any of the map) and so on. 0 without any above it.

        Source: Envoy ``orca_load_metrics.cc`` ``getMaxUtilization``.
        """
        most = 0.0
        for name in names:
            group, dot, key = name.partition(".")
            if not dot:
                values = [getattr(self, name)] if name in _FIELDS else []
            elif group in _MAPS:
                entries: dict[str, float] = getattr(self, group)
                values = list(entries.values()) if key == "*" else [entries.get(key, 0.0)]
            else:
                values = []
            most = max(most, *values) if values else most
        return most

    def __repr__(self) -> str:
        said = ((name, getattr(self, name)) for name in self.__slots__)
        return f"<LoadReport {' '.join(f'{name}={value}' for name, value in said if value)}>"


def read_report(headers: HeaderMap) -> LoadReport | None:
    """The report that a response carries; None: it carries none.

    The binary header goes before the other one; of several lines, the first counts.
    Raises :class:`Malformed`.
    """
    binary = headers.get(BINARY_HEADER)
    if binary is not None:
        return _limited(binary, read_binary)
    text = headers.get(HEADER)
    if text is None:
        return None
    form, _, rest = text.partition(" ")
    reader = _READERS.get(form)
    if reader is None:
        raise Malformed("the report is neither TEXT, JSON nor BIN")
    return _limited(rest, reader)


def _limited(text: str, read: Callable[[str], LoadReport]) -> LoadReport:
    if len(text) > MAX_CHARACTERS:
        raise Malformed(f"the report is longer than {MAX_CHARACTERS} characters")
    return read(text)


def read_text(text: str) -> LoadReport:
    """``cpu_utilization=0.3, rps_fractional=10, named_metrics.queue:5``.

    Raises :class:`Malformed`.
    """
    report = LoadReport()
    seen: set[str] = set()
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        cut = min((at for at in (item.find("="), item.find(":")) if at >= 0), default=-1)
        name, value = item[:cut].strip(), _number(item[cut + 1 :])
        if cut < 0 or name in seen:
            raise Malformed("a metric is not written name=value, or stands there twice")
        seen.add(name)
        group, dot, key = name.partition(".")
        if dot and group in _TEXT_MAPS:
            report.put_entry(group, key, value)
        elif name in _FIELDS:
            report.put(name, value)
        else:
            raise Malformed("a metric has an unknown name")
    return report


def _number(text: object) -> float:
    """A number, as JSON or as text. Raises :class:`Malformed`."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise Malformed("a value is not a number")
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise Malformed("a value is not a number")
    try:
        return float(text)
    except (ValueError, OverflowError):
        raise Malformed("a value is not a number") from None


def read_json(text: str) -> LoadReport:
    """The JSON of the protocol buffer, either spelling of names; unknown ones are left
    aside. Raises :class:`Malformed`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("the report is not JSON") from None
    if not isinstance(found, dict):
        raise Malformed("the report is not a JSON object")
    report = LoadReport()
    for spelling, value in found.items():
        name = _JSON_NAMES.get(spelling)
        if name is None or value is None:
            continue
        if name in _FIELDS:
            report.put(name, _number(value))
        elif isinstance(value, dict):
            for key, number in value.items():
                report.put_entry(name, key, _number(number))
        else:
            raise Malformed(f"{name} is not a JSON object")
    return report


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


_JSON_NAMES = {spelling: name for name in (*_FIELDS, *_MAPS) for spelling in (name, _camel(name))}


def read_binary(text: str) -> LoadReport:
    """The protocol buffer in base64, padded or not. Raises :class:`Malformed`."""
    bare = text.rstrip("=")
    try:
        message = b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("the report is not base64") from None
    if not message:
        raise Malformed("the report is empty")
    report = LoadReport()
    for number, value in _fields(message):
        name = _NUMBERS.get(number)
        if name is None:
            continue
        if name in _FIELDS:
            report.put(name, _double(value))
        else:
            report.put_entry(name, *_entry(value))
    return report


def _entry(value: int | bytes) -> tuple[str, float]:
    """One entry of a map: a message of name and number."""
    if not isinstance(value, bytes):
        raise Malformed("a map is not a message")
    name, number = "", 0.0
    for field, part in _fields(value):
        if field == 1 and isinstance(part, bytes):
            name = part.decode("utf-8", "replace")
        elif field == 2:
            number = _double(part)
    return name, number


def _double(value: int | bytes) -> float:
    if not isinstance(value, bytes) or len(value) != 8:
        raise Malformed("a number is not a double")
    number: float = struct.unpack("<d", value)[0]
    return number


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """Field numbers and raw values of a protocol buffer. Raises :class:`Malformed`."""
    try:
        return list(fields(message))
    except ValueError as error:
        raise Malformed(f"the protocol buffer: {error}") from None


_READERS: dict[str, Callable[[str], LoadReport]] = {
    "TEXT": read_text,
    "JSON": read_json,
    "BIN": read_binary,
}

__all__ = [
    "BINARY_HEADER",
    "HEADER",
    "MAX_CHARACTERS",
    "MAX_ENTRIES",
    "LoadReport",
    "Malformed",
    "read_binary",
    "read_json",
    "read_report",
    "read_text",
]
