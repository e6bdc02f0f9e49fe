"""Bytes of the PROXY protocol header, against the examples of its specification."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.transport.proxy_protocol import Version, header

_SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (
            ("255.255.255.255", 65535),
            ("255.255.255.255", 65535),
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ),
        (
            ("2001:db8::1", 40000, 0, 0),
            ("2001:db8::2", 80, 0, 0),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 80\r\n",
        ),
        (
            ("fe80::1%eth0", 40000, 0, 2),
            ("fe80::2%eth0", 80, 0, 2),
            b"PROXY TCP6 fe80::1 fe80::2 40000 80\r\n",
        ),
        ("", "/run/web.sock", b"PROXY UNKNOWN\r\n"),
    ],
)
def test_version_1(source: object, destination: object, expected: bytes) -> None:
    assert header("v1", source, destination) == expected


def test_version_2() -> None:
    found = header("v2", ("10.0.0.1", 40000), ("10.0.0.2", 80))
    assert found == _SIGNATURE + bytes.fromhex("21 11 000c 0a000001 0a000002 9c40 0050")
    found = header("v2", ("2001:db8::1", 40000, 0, 0), ("2001:db8::2", 80, 0, 0))
    ends = "20010db8000000000000000000000001 20010db8000000000000000000000002"
    assert found == _SIGNATURE + bytes.fromhex(f"21 21 0024 {ends} 9c40 0050")
    assert header("v2", "", "/run/web.sock") == _SIGNATURE + bytes.fromhex("20 00 0000")


@given(
    st.sampled_from(["v1", "v2"]),
    st.ip_addresses(),
    st.ip_addresses(),
    st.integers(1, 65535),
    st.integers(1, 65535),
)
def test_what_a_server_reads_is_what_the_socket_said(
    version: Version,
    source: ipaddress.IPv4Address,
    destination: ipaddress.IPv4Address,
    source_port: int,
    port: int,
) -> None:
    if source.version != destination.version:
        return
    found = header(version, (str(source), source_port), (str(destination), port))
    if version == "v1":
        assert found.endswith(b"\r\n")
        assert len(found) <= 107, "the longest line the specification allows"
        words = found.decode().split()
        assert words[:2] == ["PROXY", f"TCP{source.version}"]
        assert [ipaddress.ip_address(word) for word in words[2:4]] == [source, destination]
        assert [int(word) for word in words[4:]] == [source_port, port]
        return
    size = len(source.packed)
    body = found[16:]
    assert int.from_bytes(found[14:16], "big") == len(body) == 2 * size + 4
    assert (body[:size], body[size : 2 * size]) == (source.packed, destination.packed)
    assert int.from_bytes(body[-4:-2], "big") == source_port
    assert int.from_bytes(body[-2:], "big") == port
