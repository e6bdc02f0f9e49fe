"""HPACK (RFC 7541), incoming: blocks to header lists, checked and remembered.

Pure: no frames and no streams. The Huffman decoder is that of ``hpack``; the rest is
here because most responses repeat the ones before, and then cost a look-up.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman

from meshclient.transport.http2_encoder import FIRST_DYNAMIC, OVERHEAD, STATIC, TABLE_SIZE, Field

#: Octets of an integer at most: more than any length or index here needs.
_MAX_INTEGER: Final = 5
_MAX_BLOCKS: Final = 64
_MAX_BLOCK: Final = 512
_MAX_NAMES: Final = 1024
_MAX_NAME: Final = 64
#: RFC 9113 section 8.2.2: these describe a connection, which a stream is not.
_CONNECTION_SPECIFIC: Final = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding upgrade".split()
)
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\0\r]|\n[ \t]|[ \t]\n")


class HpackError(Exception):
    """A block that cannot be decoded: the tables of both sides no longer agree."""


class _Known(NamedTuple):
    """What a block gave, and when it gives that again."""

    fields: list[Field]
    fault: str
    inserted: list[Field]
    #: Of the table, where the block names entries of it; else the same for ever.
    generation: int | None


class Decoder:
    """Of the responses on one connection.

    The same block gives the same list as long as the entries that it names are where
    they were, so blocks are remembered, and what they put into the table with them.
    """

    __slots__ = ("_blocks", "_entries", "_generation", "_limit", "_max_list", "_named", "_size")

    def __init__(self, max_list: int) -> None:
        self._max_list = max_list
        self._limit = TABLE_SIZE
        self._size = self._generation = 0
        #: The newest last.
        self._entries: list[Field] = []
        #: The block at hand names an entry of the dynamic table.
        self._named = False
        self._blocks: dict[bytes, _Known] = {}

    def decode(self, block: bytes) -> tuple[list[Field], str]:
        """The fields, and what is wrong with them as fields of HTTP ("" for nothing).

        The list is shared and must not be changed; one over the limit comes empty. Raises
        HpackError, after which the connection is of no use.
        """
        known = self._blocks.get(block)
        if known is None or known[3] not in (None, self._generation):
            return self._decoded(block)
        fields, wrong, inserted, _ = known
        if inserted:
            for field in inserted:
                self._insert(field)
        return fields, wrong

    def _decoded(self, block: bytes) -> tuple[list[Field], str]:
        generation, self._named = self._generation, False
        try:
            fields, inserted, total, resized = self._fields(block)
        except (IndexError, HPACKDecodingError) as error:
            raise HpackError(f"invalid header block: {error}") from error
        if total > self._max_list:
            fields, wrong = [], f"a header list of {total} bytes, of {self._max_list} at most"
        else:
            wrong = fault(fields)
        if len(block) <= _MAX_BLOCK and not resized:
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            valid = generation if self._named else None
            self._blocks[block] = _Known(fields, wrong, inserted, valid)
        return fields, wrong

    def _fields(self, block: bytes) -> tuple[list[Field], list[Field], int, bool]:
        """The fields, which of them went into the table, their size, and whether it was resized.

        A list over the limit is read on, as the table must stay that of the peer, but not kept.
        """
        fields: list[Field] = []
        inserted: list[Field] = []
        at, total, resized = 0, 0, False
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _read_integer(block, at, 0x7F)
                field = self._entry(index)
            elif first & 0xE0 == 0x20:
                size, at = _read_integer(block, at, 0x1F)
                self._resize(size, total > 0)
                resized = True
                continue
            else:
                field, at = self._read_literal(block, at, 0x3F if first & 0x40 else 0x0F)
                if first & 0x40:
                    self._insert(field)
                    inserted.append(field)
            total += len(field[0]) + len(field[1]) + OVERHEAD
            if total <= self._max_list:
                fields.append(field)
        return fields, inserted, total, resized

    def _entry(self, index: int) -> Field:
        if 0 < index < FIRST_DYNAMIC:
            return STATIC[index]
        if not index or index - FIRST_DYNAMIC >= len(self._entries):
            raise HpackError(f"invalid header block: no entry {index}")
        self._named = True
        return self._entries[FIRST_DYNAMIC - 1 - index]

    def _read_literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = _read_integer(block, at, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _read_string(block, at)
        value, at = _read_string(block, at)
        return (name, value), at

    def _resize(self, size: int, late: bool) -> None:
        if late or size > TABLE_SIZE:
            raise HpackError("invalid header block: table size update out of place or too large")
        self._generation += 1
        self._limit = size
        self._evict(0)

    def _insert(self, field: Field) -> None:
        self._generation += 1
        size = len(field[0]) + len(field[1]) + OVERHEAD
        self._evict(size)
        if size <= self._limit:  # a larger one empties the table (RFC 7541 section 4.4)
            self._entries.append(field)
            self._size += size

    def _evict(self, size: int) -> None:
        while self._entries and self._size + size > self._limit:
            name, value = self._entries.pop(0)
            self._size -= len(name) + len(value) + OVERHEAD


def _read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    for shift in range(0, 7 * _MAX_INTEGER, 7):
        octet = block[at]
        at += 1
        number += (octet & 127) << shift
        if octet < 128:
            return number, at
    raise HpackError("invalid header block: an endless integer")


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    coded = block[at] & 0x80
    length, at = _read_integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HpackError("invalid header block: cut off")
    text = block[at:end]
    return (_huffman(text) if coded else text), end


@lru_cache(maxsize=512)
def _short_huffman(text: bytes) -> bytes:
    return decode_huffman(text)


def _huffman(text: bytes) -> bytes:
    # Dates, lengths and types repeat; long ones are ids and cookies.
    return _short_huffman(text) if len(text) <= 24 else decode_huffman(text)


class _Sound(dict[bytes, bool]):
    """Header names that may stand in a response, remembered (bounded)."""

    def __missing__(self, name: bytes) -> bool:
        sound = _NAME.fullmatch(name) is not None and name not in _CONNECTION_SPECIFIC
        if len(name) <= _MAX_NAME:
            if len(self) >= _MAX_NAMES:
                self.clear()
            self[name] = sound
        return sound


_SOUND: Final = _Sound()


def fault(fields: list[Field]) -> str:
    """What makes the list malformed (RFC 9113 sections 8.2 and 8.3), or "".

    Checked: ``:status`` first or no pseudo header at all, names, connection-specific
    fields, and values with CR, LF, NUL or white space around them.
    """
    rest = fields[1:] if fields and fields[0][0] == b":status" else fields
    for name, value in rest:
        if not _SOUND[name] or (name == b"te" and value != b"trailers"):
            return f"a field named {name[:80]!r}"
    values = b"\n".join([b"", *[value for _, value in fields], b""])
    if values.count(b"\n") != len(fields) + 1 or _BAD_VALUE.search(values):
        return "a field value with control characters, or white space around it"
    return ""
