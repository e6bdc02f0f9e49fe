"""The only way into a policy document: values with position, path and diagnostics.

Reading never raises for bad input: a wrong value becomes a diagnostic and None,
so that all errors of a file are reported at once. Knows types and spelling,
never what a field means; opens no file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from meshclient.config.diagnostics import Diagnostics
from meshclient.config.durations import DurationError, format_s, parse_ns
from meshclient.config.suggest import did_you_mean
from meshclient.config.yaml_nodes import Node, Scalar, to_python
from meshclient.model.source import NOT_HONOURED, Diagnostic, Severity, Source

_BOOLEAN_WORDS = {"yes": True, "on": True, "no": False, "off": False}


class Reader:
    """One value of a document, with its position and its field path.

    ``path`` is the field path inside the document (``spec.http[0].timeout``);
    ``source`` the position of the value. Children are made once, so asking
    twice for a field gives the same reader. Not thread-safe.
    """

    __slots__ = ("_asked", "_children", "_complained", "_open", "node", "path", "sink", "source")

    def __init__(self, node: Node, source: Source, path: str, sink: Diagnostics) -> None:
        self.node = node
        self.source = source
        self.path = path
        self.sink = sink
        self._asked: dict[str, None] = {}
        self._children: dict[str | int, Reader] = {}
        self._complained = False
        self._open = False

    @classmethod
    def root(cls, node: Node, file: str, sink: Diagnostics, document: str = "") -> Reader:
        """The reader of a whole document; ``document`` names it in reports."""
        return cls(node, Source(file, node.line, node.column, document), "", sink)

    def named(self, document: str) -> Reader:
        """The same value in a document that goes by another name (for roots)."""
        source = Source(self.source.file, self.source.line, self.source.column, document)
        return Reader(self.node, source, self.path, self.sink)

    def __repr__(self) -> str:
        return f"<Reader {self.path or '(root)'} {self.node.kind} {self.source}>"

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
            return f'the text "{_shorten(value)}"'
        return f"the number {_shorten(self.node.text)}"

    # -- mappings --------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the mapping has the key (even with null). Does not make it known."""
        return self.is_mapping and name in self.node.value

    def field(self, name: str, *aliases: str) -> Reader | None:
        """The value of a key, or None when absent or null. Makes the key known."""
        found: Reader | None = None
        for key in (name, *aliases):
            self._asked[key] = None
            child = self._child(key)
            if child is None or child.is_null:
                continue
            if found is not None:
                child.error(f'"{key}" and "{name}" are the same setting', code="duplicate-key")
                continue
            found = child
        return found

    def _child(self, key: str) -> Reader | None:
        child = self._children.get(key)
        if child is None and self._entries() is not None:
            node = self.node.value.get(key)
            if node is not None:
                path = self._path_to(key)
                child = self._children[key] = self._below(node, path)
        return child

    def _path_to(self, key: str) -> str:
        """``spec.http``, ``labels["odd key"]``."""
        if key and all(c.isalnum() or c in "_-" for c in key):
            return f"{self.path}.{_shorten(key)}" if self.path else _shorten(key)
        return f'{self.path}["{_shorten(key)}"]'

    def _below(self, node: Node, path: str) -> Reader:
        source = Source(self.source.file, node.line, node.column, self.source.document)
        return Reader(node, source, path, self.sink)

    def _entries(self) -> dict[str, Node] | None:
        if self.is_mapping:
            entries: dict[str, Node] = self.node.value
            return entries
        if not self.is_null:
            self._expected("a mapping")
        return None

    def items(self) -> Iterator[tuple[str, Reader]]:
        """Every key and value, null values too. Makes all keys known."""
        self._open = True
        for key in list(self._entries() or ()):
            child = self._child(key)
            if child is not None:
                yield key, child

    def key_source(self, name: str) -> Source:
        """Where a key stands."""
        line, column = self.node.keys.get(name, (self.node.line, self.node.column))
        return Source(self.source.file, line, column, self.source.document)

    def ignore(self, *names: str) -> None:
        """These keys may stand here and mean nothing to us."""
        self._asked.update(dict.fromkeys(names))

    def finish(self, context: str = "") -> None:
        """Every key that nobody asked for is an error, with a suggestion."""
        if not self.is_mapping or self._open:
            return
        where = f" in {context}" if context else ""
        for key in self.node.value:
            if key in self._asked:
                continue
            path = self._path_to(key)
            message = f'unknown field "{_shorten(key)}"{where}'
            suggestion = did_you_mean(key, self._asked)
            source = self.key_source(key)
            self.sink.append(
                Diagnostic("error", "unknown-field", message, source, path, suggestion)
            )

    # -- lists -----------------------------------------------------------

    def elements(self) -> list[Reader]:
        """The elements of a list; an error and nothing for any other kind."""
        if not self.is_list:
            if not self.is_null:
                self._expected("a list", "write - before it" if self.is_mapping else "")
            return []
        nodes: list[Node] = self.node.value
        for index, node in enumerate(nodes):
            if index not in self._children:
                self._children[index] = self._below(node, f"{self.path}[{index}]")
        return [self._children[index] for index in range(len(nodes))]

    def strings(self) -> list[str]:
        """A list of texts."""
        return [s for s in (e.string() for e in self.elements()) if s is not None]

    def string_map(self) -> dict[str, str]:
        """A mapping from text to text."""
        result: dict[str, str] = {}
        for key, value in self.items():
            text = value.string()
            if text is not None:
                result[key] = text
        return result

    # -- scalars ---------------------------------------------------------

    def string(self, choices: Collection[str] | None = None) -> str | None:
        """Text; one of ``choices`` when given."""
        value: Scalar = self.node.value if self.is_scalar else None
        if not isinstance(value, str):
            quoted = f'write "{_shorten(self.node.text)}"' if self.is_scalar else ""
            self._expected("a text", "" if self.is_null else quoted)
            return None
        if not _is_text(value):
            self.error("not valid Unicode text", code="type")
            return None
        if choices is not None and value not in choices:
            listed = ", ".join(sorted(choices))
            message = f'unknown value "{_shorten(value)}"; known are {listed}'
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
            self.error(f"{_shorten(self.node.text)} is less than {minimum}", code="range")
            return False
        if maximum is not None and value > maximum:
            self.error(f"{_shorten(self.node.text)} is more than {maximum}", code="range")
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
            example = f"write {_shorten(self.node.text)}s" if self.is_number else ""
            self._expected("a duration such as 1.5s or 200ms", example)
            return None
        try:
            nanoseconds = parse_ns(value)
        except DurationError as why:
            message = f'"{_shorten(value)}" is not a duration: {why}'
            self.error(message, code="duration", suggestion="write it like 1.5s, 200ms or 1h30m")
            return None
        if nanoseconds % 1_000_000:
            self.error("durations are whole milliseconds", code="duration")
            return None
        seconds = nanoseconds / 1_000_000_000
        if (seconds == 0 and allow_zero) or seconds >= minimum_s > 0 or seconds > 0 >= minimum_s:
            return seconds
        message = f'"{_shorten(value)}" is too short, the least is {format_s(minimum_s)}'
        self.error(message, code="range")
        return None

    def raw(self) -> Any:
        """Plain Python values, for what is only carried along. Makes all keys known."""
        self._open = True
        return to_python(self.node)


def wire_text(text: str) -> str:
    """Policy text as the wire carries it: UTF-8 bytes, one Latin-1 character each."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("latin-1")


def _shorten(text: str) -> str:
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


__all__ = ["Diagnostics", "Reader", "wire_text"]
