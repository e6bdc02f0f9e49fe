"""YAML (and JSON) text to nodes that know their line and column.

Composes from the parser's event stream with an explicit stack, so that depth,
number of values and alias expansion are bounded *before* anything is built.
Knows nothing of policies, and never builds Python objects from tags.

Scalars follow what Kubernetes' tooling makes of YAML, not YAML 1.1: ``12:30``
and ``2024-01-01`` are text, ``010`` is text, only ``true`` and ``false`` are
booleans by themselves (``yes``, ``no``, ``on``, ``off`` stay text here; the
reader accepts them, unquoted, where a boolean is asked for, as Kubernetes does).
"""

from __future__ import annotations

import re
from typing import Any, Literal, Protocol

import yaml

from meshclient.model.source import Diagnostic, Source

MAX_BYTES = 10_000_000
MAX_DEPTH = 64
MAX_VALUES = 500_000

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})\Z")
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]{1,16}\Z|0o[0-7]{1,21}\Z")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z"
    r"|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"
)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset({_TAG + t for t in ("str", "int", "float", "bool", "null", "map", "seq")})

Scalar = str | int | float | bool | None
Kind = Literal["mapping", "list", "scalar"]


class Sink(Protocol):
    """Takes diagnostics; :class:`meshclient.config.reader.Diagnostics` is one."""

    def append(self, diagnostic: Diagnostic, /) -> None: ...


class Node:
    """One value. ``value`` is a scalar, a ``list[Node]`` or a ``dict[str, Node]``.

    ``keys`` holds the position of each key of a mapping. ``plain`` tells an
    unquoted scalar, ``text`` its spelling. ``line`` 0: not from a file.
    """

    __slots__ = ("column", "keys", "kind", "line", "plain", "size", "text", "value")

    def __init__(self, kind: Kind, value: Any, line: int = 0, column: int = 0) -> None:
        self.kind = kind
        self.value = value
        self.line = line
        self.column = column
        self.keys: dict[str, tuple[int, int]] = {}
        self.plain = False
        self.text = ""
        self.size = 1

    def __repr__(self) -> str:
        return f"<Node {self.kind} at {self.line}:{self.column}>"


class _Stop(Exception):
    """The rest of the input cannot be read; the diagnostic is recorded."""


class _Frame:
    """An open mapping or list."""

    __slots__ = ("anchor", "key", "merges", "node", "skip", "start")

    def __init__(self, node: Node, anchor: str | None, start: int) -> None:
        self.node = node
        self.anchor = anchor
        self.start = start
        self.key: Node | None = None
        self.skip = False
        self.merges: list[Node] = []


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar."""
    if text in _NULLS:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.match(text):
        return int(text)
    if _HEX_OR_OCTAL.match(text):
        return int(text, 0)
    if _FLOAT.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def parse(text: str, file: str, sink: Sink) -> list[Node]:
    """The documents of ``text``; problems go to ``sink``, nothing is raised.

    What stands before a syntax error is still returned, so that its other
    errors can be reported together with it. Empty documents are left out.
    """
    composer = _Composer(file, sink)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.feed(event)
    except _Stop:
        pass
    except yaml.YAMLError as error:
        sink.append(_syntax_error(error, text, file))
    except RecursionError:  # only the pure Python scanner could
        sink.append(Diagnostic("error", "yaml-depth", "nested too deeply", Source(file)))
    return composer.documents


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Composer:
    """Builds nodes from events."""

    def __init__(self, file: str, sink: Sink) -> None:
        self.documents: list[Node] = []
        self._file = file
        self._sink = sink
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node | None] = {}
        self._count = 0

    def feed(self, event: Any) -> None:
        """Take one parser event."""
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._open(event, Node("mapping", {}, *_position(event)))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open(event, Node("list", [], *_position(event)))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._anchors = {}

    def _error(self, code: str, message: str, at: tuple[int, int], suggestion: str = "") -> None:
        source = Source(self._file, *at)
        self._sink.append(Diagnostic("error", code, message, source, suggestion=suggestion))

    def _grow(self, by: int, at: tuple[int, int]) -> None:
        self._count += by
        if self._count > MAX_VALUES:
            what = f"more than {MAX_VALUES} values in one file, aliases expanded"
            self._error("too-large", what, at, "split the file, or use fewer YAML aliases")
            raise _Stop

    def _scalar(self, event: Any) -> None:
        at = _position(event)
        self._grow(1, at)
        node = Node("scalar", event.value, *at)
        node.text = event.value
        tag = event.tag
        if tag is None or tag == "!":
            node.plain = tag is None and event.implicit[0]
        else:
            node.plain = tag != _TAG + "str"
            self._check_tag(tag, at)
        if node.plain:
            node.value = resolve(event.value)
        self._remember(event.anchor, node)
        self._attach(node)

    def _check_tag(self, tag: str | None, at: tuple[int, int]) -> None:
        if tag is not None and tag != "!" and tag not in _KNOWN_TAGS:
            shown = tag.replace(_TAG, "!!")[:80]
            self._error("yaml-tag", f"the YAML tag {shown} is not supported", at, "remove the tag")

    def _open(self, event: Any, node: Node) -> None:
        at = (node.line, node.column)
        self._grow(1, at)
        if len(self._stack) >= MAX_DEPTH:
            self._error("yaml-depth", f"nested more than {MAX_DEPTH} levels deep", at)
            raise _Stop
        self._check_tag(event.tag, at)
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # an alias inside would be a cycle
        self._stack.append(_Frame(node, event.anchor, self._count - 1))

    def _close(self) -> None:
        frame = self._stack.pop()
        for merged in frame.merges:
            self._merge(frame.node, merged)
        frame.node.size = self._count - frame.start
        self._remember(frame.anchor, frame.node)
        self._attach(frame.node)

    def _remember(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _alias(self, event: Any) -> None:
        at = _position(event)
        if event.anchor not in self._anchors:
            self._error("yaml-alias", f"the alias *{event.anchor[:80]} has no anchor above it", at)
            node: Node | None = None
        else:
            node = self._anchors[event.anchor]
            if node is None:
                self._error("yaml-alias", f"the alias *{event.anchor[:80]} contains itself", at)
        if node is None:
            node = Node("scalar", None, *at)
        self._grow(node.size, at)
        self._attach(node)

    def _attach(self, node: Node) -> None:
        """Put a finished node where it belongs."""
        if not self._stack:
            if not (node.kind == "scalar" and node.value is None):
                self.documents.append(node)
            return
        frame = self._stack[-1]
        if frame.node.kind == "list":
            frame.node.value.append(node)
        elif frame.key is None and not frame.skip:
            self._key(frame, node)
        else:
            self._value(frame, node)

    def _key(self, frame: _Frame, node: Node) -> None:
        if node.kind != "scalar":
            at = (node.line, node.column)
            self._error("yaml-key", "a mapping key must be a plain text", at)
            frame.skip = True
            return
        key = node.text
        first = frame.node.keys.get(key)
        if first is not None:
            what = f'duplicate key "{key[:80]}", first given in line {first[0]}'
            self._error("duplicate-key", what, (node.line, node.column), "keep one of the two")
            frame.skip = True
            return
        frame.node.keys[key] = (node.line, node.column)
        frame.key = node

    def _value(self, frame: _Frame, node: Node) -> None:
        key, frame.key = frame.key, None
        if frame.skip or key is None:
            frame.skip = False
        elif key.text == "<<" and key.plain:
            del frame.node.keys["<<"]
            frame.merges.append(node)
        else:
            frame.node.value[key.text] = node

    def _merge(self, target: Node, merged: Node) -> None:
        """YAML 1.1 merge: own keys win, then the earlier of the merged ones."""
        for source in merged.value if merged.kind == "list" else [merged]:
            if source.kind != "mapping":
                at = (source.line, source.column)
                self._error("yaml-merge", "<< takes a mapping or a list of mappings", at)
                continue
            for key, value in source.value.items():
                if key not in target.value:
                    target.value[key] = value
                    target.keys[key] = source.keys.get(key, (source.line, source.column))


def _position(event: Any) -> tuple[int, int]:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


def _syntax_error(error: yaml.YAMLError, text: str, file: str) -> Diagnostic:
    line = column = 0
    message = str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        message = error.problem or error.context or message
        if error.context and error.problem:
            message = f"{error.problem} ({error.context})"
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            line, column = mark.line + 1, mark.column + 1
    elif isinstance(error, yaml.reader.ReaderError):
        line, column, found = _first_control_character(text)
        message = f"character {found}: {error.reason}"[:200]
    source = Source(file, line, column)
    return Diagnostic(
        "error", "yaml-syntax", message, source, suggestion=_advice(message, text, line)
    )


_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _first_control_character(text: str) -> tuple[int, int, str]:
    found = _CONTROL.search(text)
    at = found.start() if found else 0
    name = f"U+{ord(found[0]):04X}" if found else "?"
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at), name


def _advice(message: str, text: str, line: int) -> str:
    lines = text.splitlines()
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    if "{{" in written:
        return "this looks like a template; render it first"
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in message:
        return "check the indentation; a text that contains ': ' needs quotes"
    return ""


def to_python(node: Node) -> Any:
    """Plain Python values. Bounded, because the nodes were."""
    if node.kind == "mapping":
        return {key: to_python(value) for key, value in node.value.items()}
    if node.kind == "list":
        return [to_python(value) for value in node.value]
    return node.value
