"""The only way into a policy document: values with position, path and diagnostics.

Reading never raises for bad input: a wrong value becomes a diagnostic and None,
so that all errors of a file are reported at once. Knows types and spelling,
never what a field means; opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshclient.config.diagnostics import Diagnostics
from meshclient.config.scalars import Value, shorten
from meshclient.config.suggest import did_you_mean
from meshclient.config.yaml_nodes import Node, to_python
from meshclient.model.source import Diagnostic, Source


class Reader(Value):
    """One value of a document, with its position and its field path.

    ``path`` is the field path inside the document (``spec.http[0].timeout``);
    ``source`` the position of the value. Children are made once, so asking
    twice for a field gives the same reader. Not thread-safe.
    """

    __slots__ = ("_asked", "_children", "_open")

    def __init__(self, node: Node, source: Source, path: str, sink: Diagnostics) -> None:
        super().__init__(node, source, path, sink)
        self._asked: dict[str, None] = {}
        self._children: dict[str | int, Reader] = {}
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
        if self.node.kind == "mapping" and key not in self.node.value:
            return None  # most questions end here
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
            return f"{self.path}.{shorten(key)}" if self.path else shorten(key)
        return f'{self.path}["{shorten(key)}"]'

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
            message = f'unknown field "{shorten(key)}"{where}'
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

    def raw(self) -> Any:
        """Plain Python values, for what is only carried along. Makes all keys known."""
        self._open = True
        return to_python(self.node)


def wire_text(text: str) -> str:
    """Policy text as the wire carries it: UTF-8 bytes, one Latin-1 character each."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("latin-1")


__all__ = ["Diagnostics", "Reader", "wire_text"]
