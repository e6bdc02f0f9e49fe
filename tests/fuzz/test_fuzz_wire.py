"""Damaged answers and requests, with h11 and httpcore2 as second opinions. See long_run.py."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import exchange, guided, loop_exchange, mutate, oracle, requests

SEEDS, ASKED = mutate.seeds(), mutate.request_seeds()


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 2**64 - 1), st.booleans())
def test_damaged_answers(seed: int, head_only: bool) -> None:
    """No verdict depends on how the bytes were cut; none is more lenient than h11's unexplained."""
    rand = Random(seed)
    data = mutate.mutate(rand, rand.choice(SEEDS), SEEDS)
    check_answer(data, mutate.cuts(rand, len(data)), head_only)


def check_answer(data: bytes, cuts: list[int], head_only: bool) -> None:
    whole = oracle.ours(data, [], head_only)
    cut = oracle.ours(data, cuts, head_only)
    assert cut[:3] + cut[4:] == whole[:3] + whole[4:], data
    theirs = oracle.h11s(data, head_only)
    assert oracle.explained(data, whole, theirs, head_only), (data, whole, theirs)


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
    assert oracle.ours(data, cuts)[:4] == ("ok", status, b"".join(pieces), True)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**64 - 1), st.sampled_from(exchange.METHODS))
def test_whole_exchanges_with_damaged_answers(seed: int, method: bytes) -> None:
    """The same status, headers and body as httpcore's, or refused."""
    rand = Random(seed)
    problem = exchange.judge(mutate.mutate(rand, rand.choice(SEEDS), SEEDS), method)[1]
    assert not problem


@pytest.fixture(scope="module")
def _loop() -> Iterator[None]:
    yield
    loop_exchange.close()


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**64 - 1), st.sampled_from(exchange.METHODS))
@pytest.mark.usefixtures("_loop")
def test_both_shells_make_the_same_of_an_answer(seed: int, method: bytes) -> None:
    rand = Random(seed)
    data = mutate.mutate(rand, rand.choice(SEEDS), SEEDS)
    assert not loop_exchange.judge(data, method, mutate.cuts(rand, len(data)))[1]


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_damaged_requests(seed: int) -> None:
    """Refused, or read by a server as exactly what was asked for."""
    rand = Random(seed)
    data = mutate.mutate(rand, rand.choice(ASKED), ASKED, requests.TOKENS)
    assert not requests.judge(data)[1]


@settings(max_examples=400, deadline=None)
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
    """From parts that are good more often than not."""
    pairs = [(n.encode(), v.encode()) for n, v in [("Host", "test"), *headers]]
    text = requests.encode((method.encode(), target.encode(), pairs, content))
    assert not requests.judge(text)[1]


@pytest.mark.parametrize("data", ASKED)
def test_the_corpus_of_requests(data: bytes) -> None:
    assert not requests.judge(data)[1]
    assert requests.encode(requests.decode(data)) == data


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for path in mutate.CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) < 200_000


@pytest.mark.parametrize("data", SEEDS)
@pytest.mark.parametrize("method", sorted(set(exchange.METHODS)))
def test_the_corpus_in_whole_exchanges(method: bytes, data: bytes) -> None:
    assert not exchange.judge(data, method)[1]


@pytest.mark.parametrize("method", sorted(set(exchange.METHODS)))
@pytest.mark.usefixtures("_loop")
def test_the_corpus_in_both_shells(method: bytes) -> None:
    for data in SEEDS:
        assert not loop_exchange.judge(data, method, [])[1]
        assert not loop_exchange.judge(data, method, list(range(1, len(data))))[1]


@pytest.mark.usefixtures("_loop")
def test_what_guided_runs_kept() -> None:
    kept = mutate.guided()
    assert kept
    for data in kept:
        assert not guided.judge(data), data


@pytest.mark.parametrize("data", SEEDS)
def test_the_corpus_itself(data: bytes) -> None:
    check_answer(data, list(range(1, len(data))), head_only=False)
    check_answer(data, [], head_only=True)
