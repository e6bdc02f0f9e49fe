"""httpcore, stock httpx and this engine before the same servers, as docs/wire-contract.md has it.

Each case says what httpcore does and what we do, and all are run. A case that fails for
httpcore alone means that httpcore has changed, and the table with it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import httpcore
import httpx
import pytest
from engine_support import Peer, RawServer, answer, get, run_on

from meshclient import Mesh
from meshclient.model.cluster import Limits
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target
from meshclient.transport.slots import ConnectionSlots

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HI = (200, b"hi")
ERROR = "error"

Ask = tuple[str, dict[str, str], Any]
GET: Ask = ("GET", {}, None)


def over_httpcore(url: str, asks: list[Ask]) -> list[Any]:
    """What each request gives, one after the other."""
    found: list[Any] = []
    with httpcore.ConnectionPool() as pool:
        for method, headers, content in asks:
            try:
                got = pool.request(
                    method, url, headers=list(headers.items()), content=content, extensions=_SHORT
                )
                found.append((got.status, got.content))
            except (httpcore.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException):
                found.append(ERROR)
    return found


_SHORT = {"timeout": {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}}


def over(client: httpx.Client, url: str, asks: list[Ask]) -> list[Any]:
    found: list[Any] = []
    for method, headers, content in asks:
        try:
            got = client.request(method, url, headers=headers, content=content)
            found.append((got.status_code, got.content))
        except httpx.TransportError:
            found.append(ERROR)
    return found


def over_httpx(url: str, asks: list[Ask]) -> list[Any]:
    with httpx.Client(trust_env=False) as client:
        return over(client, url, asks)


def mesh() -> Mesh:
    """One that knows no host, and lets all of them pass."""
    return Mesh.from_documents([{"version": 1}])


def over_mesh(url: str, asks: list[Ask]) -> list[Any]:
    with mesh() as ours, ours.client() as client:
        return over(client, url, asks)


def over_mesh_async(url: str, asks: list[Ask]) -> list[Any]:
    async def run() -> list[Any]:
        found: list[Any] = []
        async with mesh() as ours, ours.async_client() as client:
            for method, headers, content in asks:
                try:
                    got = await client.request(method, url, headers=headers, content=content)
                    found.append((got.status_code, got.content))
                except httpx.TransportError:
                    found.append(ERROR)
        return found

    return run_on("asyncio", run())


THEIRS: dict[str, Callable[[str, list[Ask]], list[Any]]] = {
    "httpcore": over_httpcore,
    "httpx": over_httpx,
}
OURS = {"meshclient": over_mesh, "meshclient async": over_mesh_async}


def once(payload: bytes, then: Callable[[Peer], object] | None = None) -> Callable[[Peer], None]:
    """The first request on the first connection gets ``payload``, every other one "next"."""

    def script(peer: Peer) -> None:
        if peer.number == 1 and peer.read_head():
            peer.send(payload)
            if then is not None:
                then(peer)
                return
        while peer.read_head():
            peer.send(answer(b"next"))

    return script


def leaves(peer: Peer) -> None:
    """Closes after the answer."""


def reads_one_more(peer: Peer) -> None:
    """Takes the next request, and leaves without a word."""
    peer.read_head()


class Case(NamedTuple):
    """The server, what is asked, and for each side the results and the number of connections."""

    script: Callable[[Peer], object]
    theirs: tuple[list[Any], int]
    ours: tuple[list[Any], int]
    asks: list[Ask] = [GET, GET]  # noqa: RUF012  # read only
    pause_s: float = 0.0


NEXT = (200, b"next")
LINES = b"".join(b"A%d: b\r\n" % number for number in range(150))
LENGTH = b"Content-Length: 2\r\n"

CASES = {
    "surplus bytes": Case(
        once(answer(b"hi") + answer(b"FORGED")),
        ([HI, (200, b"FORGED")], 1),
        ([HI, NEXT], 2),
    ),
    "a body after HEAD": Case(
        once(OK + LENGTH + b"\r\n" + answer(b"FORGED")),
        ([(200, b""), (200, b"FORGED")], 1),
        ([(200, b""), NEXT], 2),
        [("HEAD", {}, None), GET],
    ),
    "length and coding": Case(
        once(OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        ([HI, NEXT], 1),
        ([ERROR, NEXT], 2),
    ),
    "equal lengths": Case(
        once(OK + LENGTH * 2 + b"\r\nhi"), ([HI, NEXT], 1), ([ERROR, NEXT], 2)
    ),
    "other lengths": Case(
        once(OK + LENGTH + b"Content-Length: 3\r\n\r\nhi!"), ([ERROR, NEXT], 2), ([ERROR, NEXT], 2)
    ),
    "a signed length": Case(
        once(OK + b"Content-Length: +2\r\n\r\nhi"), ([ERROR, NEXT], 2), ([ERROR, NEXT], 2)
    ),
    "bare LF": Case(
        once(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi"), ([HI, NEXT], 1), ([ERROR, NEXT], 2)
    ),
    "a folded header": Case(
        once(OK + LENGTH + b"A: b\r\n c\r\n\r\nhi"), ([HI, NEXT], 1), ([ERROR, NEXT], 2)
    ),
    "NUL in a value": Case(
        once(OK + LENGTH + b"A: b\0c\r\n\r\nhi"), ([ERROR, NEXT], 2), ([ERROR, NEXT], 2)
    ),
    "150 header lines": Case(
        once(OK + LINES + LENGTH + b"\r\nhi"), ([HI, NEXT], 1), ([ERROR, NEXT], 2)
    ),
    "a head of 95 KB": Case(
        once(OK + b"A: " + b"b" * 95_000 + b"\r\n" + LENGTH + b"\r\nhi"),
        ([HI, NEXT], 1),
        ([ERROR, NEXT], 2),
    ),
    "40 interim answers": Case(
        once(b"HTTP/1.1 103 E\r\n\r\n" * 40 + answer(b"hi")), ([HI, NEXT], 1), ([ERROR, NEXT], 2)
    ),
    "an unasked 101": Case(
        once(b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", leaves),
        ([ERROR, NEXT], 2),
        ([ERROR, NEXT], 2),
    ),
    "a cut body": Case(
        once(OK + b"Content-Length: 5\r\n\r\nhi", leaves), ([ERROR, NEXT], 2), ([ERROR, NEXT], 2)
    ),
    "cut chunks": Case(once(CHUNKED + b"5\r\nhi", leaves), ([ERROR, NEXT], 2), ([ERROR, NEXT], 2)),
    "a body until the end": Case(once(OK + b"\r\nhi", leaves), ([HI, NEXT], 2), ([HI, NEXT], 2)),
    "HTTP/1.0": Case(
        once(b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nhi", leaves), ([HI, NEXT], 2), ([HI, NEXT], 2)
    ),
    "Connection: close": Case(
        once(answer(b"hi", 200, "Connection: close"), leaves), ([HI, NEXT], 2), ([HI, NEXT], 2)
    ),
    "stale, seen before the write": Case(
        once(answer(b"hi"), leaves), ([HI, NEXT], 2), ([HI, NEXT], 2), pause_s=0.05
    ),
    "stale, seen after it": Case(
        once(answer(b"hi"), reads_one_more), ([HI, ERROR, NEXT], 2), ([HI, ERROR, NEXT], 2),
        [GET, GET, GET],
    ),
    "white space around a value of the caller": Case(
        once(answer(b"hi")), ([ERROR, NEXT], 2), ([HI, NEXT], 1),
        [("GET", {"A": " b "}, None), GET],
    ),
    "CR and LF from the caller": Case(
        once(answer(b"hi")), ([ERROR, NEXT], 2), ([ERROR, HI], 1),
        [("GET", {"A": "b\r\nX: y"}, None), GET],
    ),
}  # fmt: skip


def paused(asks: list[Ask], pause_s: float) -> Iterator[Ask]:
    for number, ask in enumerate(asks):
        if number and pause_s:
            time.sleep(pause_s)
        yield ask


@pytest.mark.parametrize("stack", [*THEIRS, *OURS])
@pytest.mark.parametrize("name", CASES)
def test_one_answer(name: str, stack: str) -> None:
    case = CASES[name]
    run = (THEIRS | OURS)[stack]
    with RawServer(case.script) as server:
        asks: Any = paused(case.asks, case.pause_s)
        found = run(f"http://127.0.0.1:{server.port}/", asks)
        accepted = server.accepted
    assert (found, accepted) == (case.theirs if stack in THEIRS else case.ours)


@pytest.mark.parametrize("stack", [*THEIRS, *OURS])
def test_a_reset_during_an_upload_gives_the_answer_that_came_before_it(stack: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"too large", 413))
        time.sleep(0.1)
        peer.reset()

    with RawServer(script) as server:
        url = f"http://127.0.0.1:{server.port}/"
        found = (THEIRS | OURS)[stack](url, [("POST", {}, b"x" * (16 << 20))])
    assert found == [(413, b"too large")]


@pytest.mark.parametrize("stack", [*THEIRS, *OURS])
def test_the_body_waits_for_a_100_or_does_not(stack: str) -> None:
    """Theirs is on its way before the server has said that it wants it."""
    early: list[bool] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.sock.settimeout(0.2)
        try:
            early.append(bool(peer.read(2)))
        except TimeoutError:
            early.append(False)
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            peer.read(2)
        peer.send(answer(b"hi"))

    ask: Ask = ("POST", {"Expect": "100-continue", "Content-Length": "2"}, b"ab")
    with RawServer(script) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert (THEIRS | OURS)[stack](url, [ask]) == [HI]
    assert early == [stack in THEIRS]


def test_trailers() -> None:
    """Dropped by httpcore; ours stand apart from the headers."""
    payload = CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"
    with RawServer(once(payload)) as server, mesh() as ours:
        url = f"http://127.0.0.1:{server.port}/"
        with httpcore.ConnectionPool() as pool:
            theirs = pool.request("GET", url)
        assert theirs.extensions["network_stream"].get_extra_info("trailers") is None
    with RawServer(once(payload)) as server, mesh() as ours, ours.client() as client:
        got = client.get(f"http://127.0.0.1:{server.port}/")
        trailers = got.extensions["network_stream"].get_extra_info("trailers")
        assert trailers == [(b"X-Sum", b"1")]
    names = [{name.lower() for name, _ in theirs.headers}, {n.lower() for n in got.headers}]
    assert names == [{b"transfer-encoding"}, {"transfer-encoding"}]


def test_connect_gives_the_same_stream() -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK + b"\r\nhello")
        while data := peer.read(1):
            peer.send(data)

    def talk(stream: Any) -> bytes:
        stream.write(b"!")
        return stream.read(5, 5.0) + stream.read(1, 5.0)  # type: ignore[no-any-return]

    with RawServer(script) as server, mesh() as ours:
        url = f"http://127.0.0.1:{server.port}/"
        with httpcore.ConnectionPool() as pool:
            raw = httpcore.URL(
                scheme=b"http", host=b"127.0.0.1", port=server.port, target=b"db:443"
            )
            with pool.stream("CONNECT", raw, headers={"Host": "db:443"}) as got:
                assert talk(got.extensions["network_stream"]) == b"hello!"
        target = {"target": b"db:443"}
        stock, clients = httpx.Client(trust_env=False), ours.client()
        for client in (stock, clients):
            with client, client.stream("CONNECT", url, extensions=target) as answered:
                assert answered.status_code == 200
                assert talk(answered.extensions["network_stream"]) == b"hello!"


def test_an_upgrade_gives_the_same_stream() -> None:
    switch = b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello"
    asks = {"Connection": "Upgrade", "Upgrade": "x"}

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(switch)
        peer.wait_closed()

    with RawServer(script) as server, mesh() as ours:
        url = f"http://127.0.0.1:{server.port}/"
        stock, clients = httpx.Client(trust_env=False), ours.client()
        for client in (stock, clients):
            with client, client.stream("GET", url, headers=asks) as answered:
                assert answered.status_code == 101
                assert answered.extensions["network_stream"].read(64, 5.0) == b"hello"


def test_resending_is_ours_alone_and_only_where_the_file_says_so() -> None:
    with RawServer(once(answer(b"hi"), reads_one_more)) as server:
        service = {
            "endpoints": [f"127.0.0.1:{server.port}"],
            "connection": {"resend_stale": True},
        }
        document = {"version": 1, "services": {"svc": service}}
        with Mesh.from_documents([document]) as ours, ours.client() as client:
            assert over(client, "http://svc/", [GET, GET]) == [HI, NEXT]


def two_servers() -> tuple[RawServer, RawServer]:
    def script(peer: Peer) -> None:
        while peer.read_head():
            peer.send(answer(b"hi"))

    return RawServer(script), RawServer(script)


async def slot_lost(first: str, second: str, ticks: int) -> bool:
    """Cancel who waits for the only slot so many turns of the loop after it is given back."""
    async with httpcore.AsyncConnectionPool(max_connections=1) as pool:
        holder = await pool.handle_async_request(
            httpcore.Request("GET", first, headers=[("Host", "t")])
        )
        await holder.aread()
        waits = asyncio.create_task(pool.request("GET", second))
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(holder.aclose())
        for _ in range(ticks):
            await asyncio.sleep(0)
        waits.cancel()
        await closing
        with suppress(asyncio.CancelledError):
            await waits
        limit = {"timeout": {"pool": 0.1, "connect": 5.0, "read": 5.0, "write": 5.0}}
        try:
            await pool.request("GET", second, extensions=limit)
        except httpcore.PoolTimeout:
            return True
        return False


def test_a_cancelled_wait_costs_httpcore_its_slot() -> None:
    """Where the slot was handed over in the moment of the cancellation, nobody gives it back."""

    async def run(*urls: str) -> list[bool]:
        return [await slot_lost(*urls, ticks) for ticks in range(12)]

    first, second = two_servers()
    with first, second:
        urls = [f"http://127.0.0.1:{server.port}/" for server in (first, second)]
        assert any(asyncio.run(run(*urls)))


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_cancelled_wait_costs_us_nothing(kind: str) -> None:
    async def run(first: RawServer, second: RawServer) -> None:
        slots = ConnectionSlots(Limits(max_connections=1))
        here, there = (
            Target("127.0.0.1", server.port, connections=slots) for server in (first, second)
        )
        engine = AsyncEngine()
        for pause in range(6):
            holder = asyncio.create_task(engine.send(here, get()))
            waits = asyncio.create_task(engine.send(there, get()))
            for _ in range(pause):
                await asyncio.sleep(0)
            waits.cancel()
            with suppress(asyncio.CancelledError):
                await waits
            assert (await holder).status == 200
            served = await engine.send(there, get(pool_timeout_s=2.0))
            assert served.status == 200
        await engine.aclose()
        assert (slots.open, slots.waiting) == (0, 0)

    first, second = two_servers()
    with first, second:
        run_on(kind, run(first, second))


def test_threads_see_the_same() -> None:
    """The table holds under threads: no answer of one is another's."""
    lock, wrong = threading.Lock(), []

    def script(peer: Peer) -> None:
        while head := peer.read_head():
            path = head.split()[1]
            peer.send(answer(path) + answer(b"FORGED"))

    def work(client: httpx.Client, url: str) -> None:
        for number in range(20):
            path = f"/{threading.get_ident()}-{number}"
            body = client.get(url + path).text
            if body != path:
                with lock:
                    wrong.append(body)

    with RawServer(script) as server, mesh() as ours, ours.client() as client:
        url = f"http://127.0.0.1:{server.port}"
        threads = [threading.Thread(target=work, args=(client, url)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert not wrong
