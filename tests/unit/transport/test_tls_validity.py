"""Dates out of certificates: real encodings, and rubbish."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.transport.tls_validity import validity


def element(tag: int, content: bytes) -> bytes:
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes(2, "big")
    return bytes([tag, 0x82]) + length + content


def certificate(first: bytes, last: bytes, *, version: bool = True, long: bool = False) -> str:
    """The shape of RFC 5280 section 4.1, as far as the validity."""
    tags = [0x18 if len(text) == 15 else 0x17 for text in (first, last)]
    dates = element(tags[0], first) + element(tags[1], last)
    parts = [element(0x02, b"\1"), element(0x30, b""), element(0x30, b"x" * (300 if long else 3))]
    if version:
        parts.insert(0, element(0xA0, b"\2\1\2"))
    der = element(0x30, element(0x30, b"".join(parts) + element(0x30, dates) + b"\0\0"))
    return (
        "-----BEGIN CERTIFICATE-----\n"
        + base64.encodebytes(der).decode()
        + "-----END CERTIFICATE-----\n"
    )


@pytest.mark.parametrize("version", [True, False])
@pytest.mark.parametrize("long", [True, False])
def test_both_kinds_of_time(version, long):
    pem = certificate(b"260102030405Z", b"20510102030405Z", version=version, long=long)
    assert validity("a comment\n" + pem) == (
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2051, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


def test_two_digits_of_a_year_mean_1950_to_2049():
    first, last = validity(certificate(b"500101000000Z", b"491231235959Z"))
    assert (first.year, last.year) == (1950, 2049)


@settings(deadline=None)  # the first example pays for imports
@given(st.binary(max_size=60))
def test_rubbish_is_a_value_error(der):
    text = base64.encodebytes(der).decode()
    with pytest.raises(ValueError):
        validity(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")


def test_a_certificate_cut_anywhere_is_a_value_error():
    whole = certificate(b"260102030405Z", b"270102030405Z")
    der = base64.b64decode("".join(whole.splitlines()[1:-1]))
    for end in range(len(der) - 2):
        text = base64.encodebytes(der[:end]).decode()
        with pytest.raises(ValueError):
            validity(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
    with pytest.raises(ValueError, match="no PEM"):
        validity("")
