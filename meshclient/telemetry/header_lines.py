"""Header lines of an inbound request, gathered by name: what every format reads from.

Knows sizes and characters, no format.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

#: Lower-case names to the values of their lines, in order.
Found = dict[bytes, list[bytes]]

#: Longer values are not carried on; a header section of most servers ends at 8 or 16 KiB.
MAX_VALUE_BYTES = 8192
#: Further lines of one name are not carried on.
MAX_LINES = 16

#: What may stand in a field value besides HTAB (RFC 9110 section 5.5).
_PRINTABLE = bytes((*range(0x20, 0x7F), *range(0x80, 0x100), 0x09))


def gather(headers: Iterable[tuple[bytes, bytes]], wanted: Collection[bytes]) -> Found:
    """The lines whose lower-case name is ``wanted``. Values that are too long, or that no
    header may have (control characters), are left out; so are empty ones."""
    found: Found = {}
    for name, value in headers:
        key = name.lower()
        if key not in wanted or len(value) > MAX_VALUE_BYTES:
            continue
        text = value.strip(b" \t")
        if not text or text.translate(None, _PRINTABLE):
            continue
        lines = found.setdefault(key, [])
        if len(lines) < MAX_LINES:
            lines.append(text)
    return found


def single(found: Found, name: bytes) -> bytes | None:
    """The value of a header that may stand there once; None: absent, or repeated."""
    values = found.get(name)
    return values[0] if values is not None and len(values) == 1 else None


def lines_of(found: Found, *names: bytes) -> list[tuple[bytes, bytes]]:
    """The lines of ``names`` that are there."""
    return [(name, value) for name in names for value in found.get(name, ())]


__all__ = ["MAX_LINES", "MAX_VALUE_BYTES", "Found", "gather", "lines_of", "single"]
