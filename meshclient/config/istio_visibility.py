"""``exportTo``: which namespaces may see a resource.

Reads that one field (and the Service annotation of the same meaning); it
decides nothing about precedence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshclient.config.reader import Reader

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
EXPORT_ANNOTATION = "networking.istio.io/exportTo"


@dataclass(frozen=True, slots=True)
class Visibility:
    """``public`` is ``*``; ``namespaces`` are full names (``.`` is resolved)."""

    public: bool = True
    namespaces: frozenset[str] = frozenset()

    def visible_to(self, namespace: str) -> bool:
        """Whether callers of ``namespace`` see the resource."""
        return self.public or namespace in self.namespaces


PUBLIC = Visibility()


def read_export_to(spec: Reader, namespace: str) -> Visibility:
    """The ``exportTo`` list of a spec. Absent or empty: everybody (mesh default)."""
    field = spec.field("exportTo")
    if field is None:
        return PUBLIC
    return _from_words(field, field.strings(), namespace, none_allowed=False)


def read_export_annotation(text: str, where: Reader, namespace: str) -> Visibility:
    """The comma list of a Service's annotation; ``~`` hides it from everybody."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    return _from_words(where, words, namespace, none_allowed=True)


def _from_words(
    where: Reader, words: list[str], namespace: str, *, none_allowed: bool
) -> Visibility:
    if not words:
        return PUBLIC
    if "*" in words and len(words) > 1:
        where.error('"*" must stand alone', code="export-to")
    if "~" in words and (len(words) > 1 or not none_allowed):
        where.error('"~" is for Services only and must stand alone', code="export-to")
    for word in words:
        if word not in ("*", ".", "~") and not _NAMESPACE.fullmatch(word):
            where.error(f'"{word}" is not a namespace, "." or "*"', code="export-to")
    if "*" in words:
        return PUBLIC
    names = (namespace if word == "." else word for word in words if word != "~")
    return Visibility(public=False, namespaces=frozenset(names))
