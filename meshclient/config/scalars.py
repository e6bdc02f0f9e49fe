"""One value of a document: what kind it is, what is wrong with it, and its scalar readings.

The half of :class:`meshclient.config.reader.Reader` that looks at no other
value. Wrong values become diagnostics, never exceptions.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from meshclient.config.diagnostics import Diagnostics
from meshclient.config.durations import DurationError, format_s, parse_ns
from meshclient.config.suggest import did_you_mean
from meshclient.config.yaml_nodes import Node, Scalar
from meshclient.model.source import NOT_HONOURED, Diagnostic, Severity, Source

_BOOLEAN_WORDS = {"yes": True, "on": True, "no": False, "off": False}


class Value:
    """A node with its position, its field path and the sink of the load."""

    __slots__ = ("_complained", "node", "path", "sink", "source")

    def __init__(self, node: Node, source: Source, path: str, sink: Diagnostics) -> None:
        self.node = node
        self.source = source
        self.path = path
        self.sink = sink
        self._complained = False

    # -- kind ------------------------------------------------------------

    @property
    def is_mapping(self) -> bool:
        """A mapping."""
        return self.node.kind == "mapping"

    @property
    def is_list(self) -> bool:
        """A list."""
        return self.node.kind == "list"

    @property
    def is_scalar(self) -> bool:
        """Text, number, boolean or null."""
        return self.node.kind == "scalar"

    @property
    def is_null(self) -> bool:
        """Nothing, or ``null``."""
        return self.node.kind == "scalar" and self.node.value is None

    @property
    def is_string(self) -> bool:
        """Text."""
        return isinstance(self.node.value, str)

    @property
    def is_number(self) -> bool:
        """An integer or a float, not a boolean."""
        value = self.node.value
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    @property
    def is_boolean(self) -> bool:
        """``true`` or ``false``."""
        return isinstance(self.node.value, bool)

    # -- diagnostics -----------------------------------------------------

    def error(self, message: str, *, code: str = "invalid", suggestion: str = "") -> None:
        """The documents cannot be used because of this value."""
        self._report("error", code, message, suggestion)

    def warning(self, message: str, *, code: str = "suspicious", suggestion: str = "") -> None:
        """Usable, but probably not what was meant."""
        self._report("warning", code, message, suggestion)

    def info(self, message: str, *, code: str = "note", suggestion: str = "") -> None:
        """Worth knowing."""
        self._report("info", code, message, suggestion)

    def not_honoured(self, what: str) -> Diagnostic:
        """Note that ``what`` was read and checked, but that nothing acts on it yet.

        Returned so that it can be attached to the route or cluster as well.
        """
        return self._report("info", NOT_HONOURED, f"{what}: read, but not yet honoured", "")

    def _report(self, severity: Severity, code: str, message: str, suggestion: str) -> Diagnostic:
        found = Diagnostic(severity, code, message, self.source, self.path, suggestion)
        self.sink.append(found)
        return found

    def _expected(self, what: str, suggestion: str = "") -> None:
        if not self._complained:
            self._complained = True
            message = f"expected {what}, found {self.describe()}"
            self.error(message, code="type", suggestion=suggestion)

    def describe(self) -> str:
        """The value in a few words, for messages."""
        if self.node.kind != "scalar":
            return "a mapping" if self.is_mapping else "a list"
        value = self.node.value
        if value is None:
            return "nothing"
        if isinstance(value, bool):
            return f"the boolean {'true' if value else 'false'}"
        if isinstance(value, str):
            return f'the text "{shorten(value)}"'
        return f"the number {shorten(self.node.text)}"

    # -- scalars ---------------------------------------------------------

    def string(self, choices: Collection[str] | None = None) -> str | None:
        """Text; one of ``choices`` when given."""
        value: Scalar = self.node.value if self.is_scalar else None
        if not isinstance(value, str):
            quoted = f'write "{shorten(self.node.text)}"' if self.is_scalar else ""
            self._expected("a text", "" if self.is_null else quoted)
            return None
        if not _is_text(value):
            self.error("not valid Unicode text", code="type")
            return None
        if choices is not None and value not in choices:
            listed = ", ".join(sorted(choices))
            message = f'unknown value "{shorten(value)}"; known are {listed}'
            meant = did_you_mean(value, choices)
            suggestion = meant if meant.startswith("did") else ""
            self.error(message, code="unknown-value", suggestion=suggestion)
            return None
        return value

    def integer(self, minimum: int | None = None, maximum: int | None = None) -> int | None:
        """A whole number within the bounds (both inclusive)."""
        value = self._number("a whole number")
        if value is None:
            return None
        if isinstance(value, float):
            if not value.is_integer() or abs(value) > 2**53:
                self._expected("a whole number")
                return None
            value = int(value)
        return int(value) if self._within(value, minimum, maximum) else None

    def number(self, minimum: float | None = None, maximum: float | None = None) -> float | None:
        """A finite number within the bounds (both inclusive)."""
        value = self._number("a number")
        if value is None or not self._within(value, minimum, maximum):
            return None
        try:
            return float(value)
        except OverflowError:
            self._expected("a number")
            return None

    def _number(self, what: str) -> int | float | None:
        value = self.node.value if self.is_scalar else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            looks_quoted = isinstance(value, str) and value[:1].isdigit() and value.isdigit()
            self._expected(what, "remove the quotes" if looks_quoted else "")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._expected(what)
            return None
        return value

    def _within(self, value: float, minimum: float | None, maximum: float | None) -> bool:
        if minimum is not None and value < minimum:
            self.error(f"{shorten(self.node.text)} is less than {minimum}", code="range")
            return False
        if maximum is not None and value > maximum:
            self.error(f"{shorten(self.node.text)} is more than {maximum}", code="range")
            return False
        return True

    def boolean(self) -> bool | None:
        """``true`` or ``false``; unquoted yes, no, on, off as Kubernetes reads them."""
        value = self.node.value if self.is_scalar else None
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            word = value.lower()
            if self.node.plain and word in _BOOLEAN_WORDS:
                return _BOOLEAN_WORDS[word]
            if word in ("true", "false"):
                self._expected("true or false", "remove the quotes")
                return None
        self._expected("true or false")
        return None

    def go_duration(self, minimum_s: float = 0.001, allow_zero: bool = False) -> float | None:
        """Seconds of ``1h2m3.5s`` or ``500ms``: whole milliseconds, at least ``minimum_s``.

        Source of the rule: Istio ``pkg/config/validation/agent ValidateDuration``.
        """
        value = self.node.value if self.is_scalar else None
        if not isinstance(value, str):
            if value == 0 and self.is_number and allow_zero:
                return 0.0
            example = f"write {shorten(self.node.text)}s" if self.is_number else ""
            self._expected("a duration such as 1.5s or 200ms", example)
            return None
        try:
            nanoseconds = parse_ns(value)
        except DurationError as why:
            message = f'"{shorten(value)}" is not a duration: {why}'
            self.error(message, code="duration", suggestion="write it like 1.5s, 200ms or 1h30m")
            return None
        if nanoseconds % 1_000_000:
            self.error("durations are whole milliseconds", code="duration")
            return None
        seconds = nanoseconds / 1_000_000_000
        if (seconds == 0 and allow_zero) or seconds >= minimum_s > 0 or seconds > 0 >= minimum_s:
            return seconds
        message = f'"{shorten(value)}" is too short, the least is {format_s(minimum_s)}'
        self.error(message, code="range")
        return None


def shorten(text: str) -> str:
    """At most 80 printable characters."""
    clean = text if text.isprintable() else ascii(text)[1:-1]
    return clean if len(clean) <= 80 else clean[:77] + "..."


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
