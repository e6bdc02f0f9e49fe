"""Damaged answers and arbitrary requests, with h11 as a second opinion. Short; see long_run.py."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshclient.transport.interface import WireRequest
from tests.fuzz import mutate, oracle

SEEDS = mutate.seeds()


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 2**64 - 1), st.booleans())
def test_damaged_answers(seed: int, head_only: bool) -> None:
    """No verdict depends on how the bytes were cut; none is more lenient than h11's unexplained."""
    rand = Random(seed)
    data = mutate.mutate(rand, rand.choice(SEEDS), SEEDS)
    check_answer(data, mutate.cuts(rand, len(data)), head_only)


def check_answer(data: bytes, cuts: list[int], head_only: bool) -> None:
    whole = oracle.ours(data, [], head_only)
    assert oracle.ours(data, cuts, head_only)[:3] == whole[:3], data
    theirs = oracle.h11s(data, head_only)
    assert oracle.explained(data, whole, theirs), (data, whole, theirs)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5), st.booleans())
@example(b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", [], True)
def test_anything_at_all(data: bytes, cuts: list[int], head_only: bool) -> None:
    check_answer(data, cuts, head_only)


token = st.text(
    "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12
)
value = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
body = st.binary(max_size=300)


@given(
    status=st.integers(200, 599).filter(lambda s: s not in (204, 304)),
    headers=st.lists(st.tuples(token, value), max_size=8),
    pieces=st.lists(st.binary(min_size=1, max_size=80), max_size=6),
    chunked=st.booleans(),
    cuts=st.lists(st.integers(1, 2000), max_size=8),
)
def test_good_answers_are_never_refused(
    status: int,
    headers: list[tuple[str, str]],
    pieces: list[bytes],
    chunked: bool,
    cuts: list[int],
) -> None:
    reserved = ("content-length", "transfer-encoding", "connection", "upgrade", "proxy-connection")
    lines = [f"{n}: {v}".encode() for n, v in headers if n.lower() not in reserved]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
        wire = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    else:
        wire = b"".join(pieces)
        lines.append(b"Content-Length: %d" % len(wire))
    head = b"\r\n".join([b"HTTP/1.1 %d Status" % status, *lines])
    data = head + b"\r\n\r\n" + wire
    assert oracle.ours(data, cuts) == ("ok", status, b"".join(pieces), True)


@settings(max_examples=400)
@given(
    method=st.one_of(token, st.text(max_size=6)),
    target=st.one_of(st.just("/"), value, st.text(max_size=12)),
    headers=st.lists(
        st.tuples(st.one_of(token, st.text(max_size=8)), st.one_of(value, st.text(max_size=12))),
        max_size=5,
    ),
    content=st.one_of(st.none(), body, st.lists(body, max_size=4)),
)
def test_what_we_write_is_what_a_server_reads(
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    content: bytes | list[bytes] | None,
) -> None:
    """Refused, or read as exactly this one request, with nothing left over."""
    pairs = [(n.encode(), v.encode()) for n, v in [("Host", "test"), *headers]]
    data = oracle.sends(WireRequest(method.encode(), target.encode(), pairs, content))
    if data is None:
        return
    if any(not v.isascii() or _odd(v) or n.lower() == b"host" for n, v in pairs[1:]):
        return  # h11 refuses what RFC 9110 calls obsolete, and a second Host
    if not target.isascii() or any(n.lower() in FRAMING for n, _ in pairs):
        return  # h11 has an opinion of its own about these; the table tests have ours
    got = oracle.server_reads(data)
    expected = (
        b"" if content is None else content if isinstance(content, bytes) else b"".join(content)
    )
    assert got[0] == method.encode()
    assert got[1] == target.encode()
    assert got[3:] == (expected, b"")
    sent = [(n.lower(), v.strip(b" \t")) for n, v in pairs]
    assert [pair for pair in got[2] if pair[0] != b"transfer-encoding"] == sent


FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect")


def _odd(text: bytes) -> bool:
    return any((byte < 0x20 and byte != 9) or byte == 0x7F for byte in text)


@pytest.mark.parametrize("data", SEEDS)
def test_the_corpus_itself(data: bytes) -> None:
    check_answer(data, list(range(1, len(data))), head_only=False)
    check_answer(data, [], head_only=True)
