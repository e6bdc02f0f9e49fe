"""Reading and writing of protobuf fields, as far as a few small messages need it.

Knows no message. Source: the protobuf encoding specification (wire types 0, 1, 2 and 5).
"""

from __future__ import annotations

from collections.abc import Iterator

#: Wire types.
VARINT, _I64, LEN, _I32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """An unsigned number below 2**64."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def bytes_field(number: int, value: bytes) -> bytes:
    """A text, bytes or message field; with its tag, also when it is empty."""
    return varint(number << 3 | LEN) + varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an int for a varint, else the raw bytes (8 or 4 of
    them, little-endian, for a fixed number).

    Raises ValueError for what is no protobuf message. What it makes is never larger than
    ``message``.
    """
    return ((number, value) for number, _, value in wire_fields(message))


def wire_fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """:func:`fields` with the wire type of each in the middle, for readers who must not
    take a fixed number for a text of eight bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == VARINT:
            value, at = _read_varint(message, at)
        elif kind == LEN:
            size, at = _read_varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind in (_I64, _I32):
            size = 8 if kind == _I64 else 4
            value, at = message[at : at + size], at + size
        else:
            raise ValueError("not a protobuf message")
        if at > end or not number:
            raise ValueError("half a protobuf message")
        yield number, kind, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("half a protobuf message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("not a protobuf number")


__all__ = ["LEN", "VARINT", "bytes_field", "fields", "varint", "wire_fields"]
