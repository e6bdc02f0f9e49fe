"""HPACK (RFC 7541), outgoing: header lists to blocks, with what repeats remembered.

Pure: no frames, no streams, and no opinion about the fields.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

#: Bytes of the dynamic table of either side (RFC 9113 section 6.5.2, the initial value).
TABLE_SIZE: Final = 4096
#: What an entry costs beyond its bytes (RFC 7541 section 4.1).
OVERHEAD: Final = 32
STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)
FIRST_DYNAMIC: Final = len(STATIC)

_MAX_SEEN: Final = 256
_STATIC_PAIRS: Final = {pair: index for index, pair in enumerate(STATIC) if index}
_STATIC_NAMES: Final = {STATIC[index][0]: index for index in range(len(STATIC) - 1, 0, -1)}
#: Another value with nearly every request: in the table they would push out what repeats.
_PASSING: Final = frozenset(
    b":path content-length range if-none-match if-modified-since"
    b" traceparent x-request-id x-b3-traceid x-b3-spanid".split()
)


class Encoder:
    """Of the requests on one connection; no Huffman coding, which costs more than it saves here.

    A field is sent by its index where the table has it. It enters the table when it comes
    for the second time, so that what never repeats (ids, times) pushes nothing out.
    A field of another class than tuple (``hpack.NeverIndexedHeaderTuple``) is sent as
    never indexed.
    """

    __slots__ = (
        "_changes",
        "_entries",
        "_indices",
        "_inserted",
        "_limit",
        "_ready",
        "_seen",
        "_size",
    )

    def __init__(self) -> None:
        self._limit = TABLE_SIZE
        self._size = self._inserted = 0
        self._entries: deque[Field] = deque()
        #: The number of its insertion, from 1.
        self._indices: dict[Field, int] = {}
        #: What a field becomes as long as the table stays as it is.
        self._ready: dict[Field, bytes] = {}
        self._seen: set[Field] = set()
        self._changes: list[int] = []

    def resize(self, size: int) -> None:
        """The peer keeps a table of at most ``size`` bytes from now on."""
        size = min(size, TABLE_SIZE)
        if size == self._limit:
            return
        # The least size since the last block comes first (RFC 7541 section 4.2).
        least = min(size, *self._changes) if self._changes else size
        self._changes = [size] if least == size else [least, size]
        self._limit = size
        self._evict(0)
        self._ready.clear()

    def encode(self, fields: list[Field]) -> bytes:
        """The block of a header list."""
        ready = self._ready
        pieces = [_integer(size, 5, 0x20) for size in self._changes]
        self._changes = []
        for field in fields:
            if type(field) is tuple:
                pieces.append(ready.get(field) or self._encoded(field))
            else:
                pieces.append(_literal(field, 4, 0x10))
        return b"".join(pieces)

    def _encoded(self, field: Field) -> bytes:
        index = _STATIC_PAIRS.get(field)
        if index is None:
            inserted = self._indices.get(field)
            if inserted is None:
                return self._new(field)
            index = FIRST_DYNAMIC + self._inserted - inserted
        found = self._ready[field] = _integer(index, 7, 0x80)
        return found

    def _new(self, field: Field) -> bytes:
        name, value = field
        size = len(name) + len(value) + OVERHEAD
        if name in _PASSING or size * 4 > self._limit:
            return _literal(field, 4, 0x00)
        if field not in self._seen:
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen.add(field)
            return _literal(field, 4, 0x00)
        self._evict(size)
        self._entries.append(field)
        self._size += size
        self._inserted += 1
        self._indices[field] = self._inserted
        self._ready.clear()
        return _literal(field, 6, 0x40)

    def _evict(self, size: int) -> None:
        """Make room for ``size`` bytes."""
        while self._entries and self._size + size > self._limit:
            field = self._entries.popleft()
            del self._indices[field]
            self._size -= len(field[0]) + len(field[1]) + OVERHEAD


def _literal(field: Field, bits: int, mark: int) -> bytes:
    name, value = field
    index = _STATIC_NAMES.get(name, 0)
    head = _integer(index, bits, mark)
    if not index:
        head += _integer(len(name), 7, 0) + name
    return head + _integer(len(value), 7, 0) + value


def _integer(number: int, bits: int, mark: int) -> bytes:
    """RFC 7541 section 5.1."""
    limit = (1 << bits) - 1
    if number < limit:
        return bytes((mark | number,))
    octets = [mark | limit]
    number -= limit
    while number >= 128:
        octets.append(number & 127 | 128)
        number >>= 7
    octets.append(number)
    return bytes(octets)
