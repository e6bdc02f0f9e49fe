"""Header lists as they go over the wire, with an index by lower-case name.

Text is Latin-1, one character per byte. The order and the spelling of names
are kept; nothing here interprets a header.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from functools import lru_cache

RawHeaders = list[tuple[bytes, bytes]]


@lru_cache(maxsize=1024)
def _lower_name(name: bytes) -> str:
    # A program sends the same few names again and again.
    return name.decode("latin-1").lower()


class HeaderMap:
    """Ordered, multi-valued headers over the raw list a client library holds.

    The index is built at the first look-up and dropped at the first edit, so
    a call whose policy reads no header pays nothing. Not thread-safe: one call
    owns it. Edits replace ``raw`` by a new list; the caller's list is never
    changed.
    """

    __slots__ = ("_index", "raw")

    def __init__(self, raw: RawHeaders) -> None:
        self.raw = raw
        self._index: dict[str, list[str]] | None = None

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> HeaderMap:
        """From text pairs; for tests, gRPC metadata and ``explain``."""
        return cls([(n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs])

    def index(self) -> dict[str, list[str]]:
        """Lower-case name -> values in order. Treat the result as read-only."""
        index = self._index
        if index is None:
            index = {}
            for name, value in self.raw:
                key = _lower_name(name)
                text = value.decode("latin-1")
                if key in index:
                    index[key].append(text)
                else:
                    index[key] = [text]
            self._index = index
        return index

    def get(self, name: str) -> str | None:
        """First value of the lower-case ``name``, or None."""
        values = self.index().get(name)
        return values[0] if values else None

    def get_all(self, name: str) -> list[str]:
        """All values of the lower-case ``name``; empty if absent."""
        return self.index().get(name, [])

    def __contains__(self, name: str) -> bool:
        return name in self.index()

    def remove(self, name: str) -> None:
        """Drop every value of the lower-case ``name``."""
        key = name.encode("latin-1")
        self.raw = [pair for pair in self.raw if pair[0].lower() != key]
        self._index = None

    def add(self, name: str, value: str) -> None:
        """Append one line."""
        self.raw = [*self.raw, (name.encode("latin-1"), value.encode("latin-1"))]
        self._index = None

    def set(self, name: str, value: str) -> None:
        """Replace every value of ``name`` by one, at the place of the first."""
        key = name.lower().encode("latin-1")
        line = (name.encode("latin-1"), value.encode("latin-1"))
        kept: RawHeaders = []
        placed = False
        for pair in self.raw:
            if pair[0].lower() != key:
                kept.append(pair)
            elif not placed:
                kept.append(line)
                placed = True
        if not placed:
            kept.append(line)
        self.raw = kept
        self._index = None

    def edit(self, drop: Container[bytes], lines: RawHeaders) -> None:
        """Drop the lines whose lower-case name is in ``drop``, then append ``lines``."""
        kept = [pair for pair in self.raw if pair[0].lower() not in drop] if drop else self.raw
        self.raw = [*kept, *lines]
        self._index = None

    def copy(self) -> HeaderMap:
        """An independent map; edits of one do not show in the other."""
        return HeaderMap(self.raw)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self.raw:
            yield name.decode("latin-1"), value.decode("latin-1")

    def __repr__(self) -> str:
        return f"HeaderMap({list(self)!r})"
