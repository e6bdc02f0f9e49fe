"""Parsed data (``json.load``, ``yaml.safe_load``, a literal) to the nodes that files give.

Same limits as for files, no lines. Interprets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshclient.config.yaml_nodes import MAX_DEPTH, MAX_VALUES, Node, Sink
from meshclient.model.source import Diagnostic, Source


class _TooMuch(Exception):
    """Beyond a limit; the diagnostic is recorded."""


def from_python(value: object, file: str, sink: Sink) -> Node | None:
    """Nodes of parsed data (``json.load``, ``yaml.safe_load``, a literal); no lines."""
    builder = _PythonBuilder(file, sink)
    try:
        return builder.build(value, "", 0)
    except _TooMuch:
        return None


class _PythonBuilder:
    """Copies plain Python data into nodes, within the same limits."""

    def __init__(self, file: str, sink: Sink) -> None:
        self._file = file
        self._sink = sink
        self._count = 0

    def build(self, value: object, path: str, depth: int) -> Node:
        """One value and all below it."""
        self._count += 1
        if self._count > MAX_VALUES:
            self._fail("too-large", f"more than {MAX_VALUES} values in one document", path)
            raise _TooMuch
        if depth > MAX_DEPTH:
            self._fail("yaml-depth", f"nested more than {MAX_DEPTH} levels deep", path)
            raise _TooMuch
        if isinstance(value, Mapping):
            return self._mapping(value, path, depth)
        if isinstance(value, (list, tuple)):
            items = enumerate(value)
            return Node("list", [self.build(v, f"{path}[{i}]", depth + 1) for i, v in items])
        return self._scalar(value, path)

    def _mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> Node:
        node = Node("mapping", {})
        for key, item in value.items():
            text = _key_text(key)
            where = f"{path}.{text}" if path else text
            if text in node.value:
                self._fail("duplicate-key", f'duplicate key "{text[:80]}"', where)
            node.value[text] = self.build(item, where, depth + 1)
        return node

    def _scalar(self, value: object, path: str) -> Node:
        if value is not None and not isinstance(value, (str, int, float, bool)):
            what = f"values of type {type(value).__name__} are not supported"
            self._fail("invalid", what, path, "use text, numbers, booleans, lists and mappings")
            value = None
        node = Node("scalar", value)
        node.text = value if isinstance(value, str) else _key_text(value)
        return node

    def _fail(self, code: str, message: str, path: str, suggestion: str = "") -> None:
        source = Source(self._file)
        shown = path if len(path) <= 200 else path[:200] + "..."
        self._sink.append(Diagnostic("error", code, message, source, shown, suggestion))


def _key_text(key: object) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int) and key.bit_length() > 128:
        return hex(key)  # str() of a huge integer raises
    return str(key)[:200]
