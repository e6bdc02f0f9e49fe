"""When a PEM certificate begins and ceases to be valid.

Reads the validity out of the DER encoding, because ``ssl`` tells it only of
peers. For reports and rotation; no trust decision is made on it.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_EXPLICIT_VERSION = 0xA0
_UTC_TIME = 0x17


def validity(pem: str) -> tuple[datetime, datetime]:
    """``(not_before, not_after)``, in UTC, of the first certificate of ``pem``.

    Raises ValueError for anything that is no certificate.
    """
    start = pem.find(_BEGIN)
    end = pem.find(_END, start)
    if start < 0 or end < 0:
        raise ValueError("no PEM certificate")
    der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
    try:
        return _times(der)
    except IndexError:
        raise ValueError("a certificate cut short") from None


def _times(der: bytes) -> tuple[datetime, datetime]:
    """RFC 5280 section 4.1: version, serial, algorithm and issuer stand before it."""
    _, at, _ = _element(der, 0)
    _, at, _ = _element(der, at)
    tag, _, after = _element(der, at)
    if tag == _EXPLICIT_VERSION:
        at = after
    for _ in range(3):
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at)
    kind, start, end = _element(der, at)
    first = _time(kind, der[start:end])
    kind, start, end = _element(der, end)
    return first, _time(kind, der[start:end])


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag of the element at ``at``, where its content begins, and where it ends."""
    tag, length = der[at], der[at + 1]
    at += 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[at : at + count], "big")
        at += count
    if at + length > len(der):
        raise IndexError
    return tag, at, at + length


def _time(kind: int, text: bytes) -> datetime:
    digits = text.decode("ascii")
    if kind == _UTC_TIME:  # two digits: 1950 to 2049
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
