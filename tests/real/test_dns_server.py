"""Discovery against a real DNS server that is changed, killed and restarted meanwhile."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.dns import ZONE, DnsServer, free_port, missing

from meshclient.discovery.base import Discoverer
from meshclient.discovery.dns_settings import DnsSettings, Server
from meshclient.discovery.eyeballs import has_route
from meshclient.discovery.wire import exchange
from meshclient.model.endpoint import DnsSource, Endpoint, EndpointSet

pytestmark = [
    pytest.mark.dns,
    pytest.mark.skipif(bool(missing()), reason=missing() or "installed"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DnsServer]:
    with DnsServer(tmp_path / "knot", ["web A 127.0.0.1"]) as running:
        yield running


class Seen:
    """Everything that one source reported."""

    def __init__(self) -> None:
        self.reports: list[EndpointSet] = [EndpointSet()]
        self.times: list[float] = []
        self._news = asyncio.Event()

    def __call__(self, found: EndpointSet) -> None:
        self.reports.append(found)
        self.times.append(time.monotonic())
        self._news.set()

    @property
    def last(self) -> EndpointSet:
        return self.reports[-1]

    @property
    def addresses(self) -> list[str]:
        return [e.address for e in self.last.endpoints]

    async def until(self, condition: Callable[[], bool], within_s: float = 8.0) -> None:
        """Wait for a report after which ``condition`` holds."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"not within {within_s} s; reports: {self.reports}")


def settings(*servers: Server, **options: object) -> DnsSettings:
    options.setdefault("timeout_s", 0.5)
    options.setdefault("attempts", 1)
    options.setdefault("search", ())
    return DnsSettings(
        nameservers=servers,
        resolv_conf="/nonexistent",
        hosts_file="/nonexistent",
        **options,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def watching(
    discoverer: Discoverer, *names: str, mode: str = "strict"
) -> AsyncIterator[Seen]:
    seen = Seen()
    targets = tuple(Endpoint(name, 80) for name in names)
    task = asyncio.ensure_future(discoverer.watch(DnsSource(targets, mode), seen))  # type: ignore[arg-type]
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0.05)  # let the transports of cut queries close


def test_changes_are_seen_after_the_ttl(server: DnsServer) -> None:
    async def scenario() -> None:
        async with watching(Discoverer(settings(server.address)), f"web.{ZONE}") as seen:
            await seen.until(lambda: seen.addresses == ["127.0.0.1"])
            changed = time.monotonic()
            server.set_records("web A 127.0.0.2", "web A 127.0.0.1", "web AAAA ::1")
            await seen.until(lambda: seen.addresses == usable("::1", "127.0.0.1", "127.0.0.2"), 3)
            assert seen.times[-1] - changed < 2.5  # TTL 1 s, jitter, a busy machine
            server.set_records("web AAAA ::1")  # the only address is kept, route or not
            await seen.until(lambda: seen.addresses == ["::1"])
            server.set_records("other A 127.0.0.1")
            await seen.until(lambda: seen.addresses == [])
            assert (seen.last.state, "NXDOMAIN" in seen.last.error) == ("ready", True)
            server.set_records("web CNAME next", "next A 127.0.0.7")
            await seen.until(lambda: seen.addresses == ["127.0.0.7"])
            assert {r.state for r in seen.reports[1:]} == {"ready"}

    asyncio.run(scenario())


def test_killed_server_leaves_the_endpoints_and_a_restart_recovers(server: DnsServer) -> None:
    async def scenario() -> None:
        discoverer = Discoverer(settings(server.address))
        async with watching(discoverer, f"web.{ZONE}") as seen:
            await seen.until(lambda: seen.last.state == "ready")
            server.kill()
            await seen.until(lambda: seen.last.state == "stale")
            assert seen.addresses == ["127.0.0.1"]
            assert f"127.0.0.1:{server.port}: Connection refused" in seen.last.error
            async with watching(discoverer, f"new.{ZONE}") as newcomer:
                await newcomer.until(lambda: newcomer.last.state == "failed")
                assert "Connection refused" in newcomer.last.error
                server.start()
                server.set_records("web A 127.0.0.9", "new A 127.0.0.3")
                await newcomer.until(lambda: newcomer.addresses == ["127.0.0.3"])
            await seen.until(lambda: seen.addresses == ["127.0.0.9"])
            assert (seen.last.state, seen.last.error) == ("ready", "")

    asyncio.run(scenario())


def test_srv_with_and_without_glue(server: DnsServer) -> None:
    async def scenario() -> None:
        server.set_records(
            "_http._tcp.web SRV 10 7 8001 a",
            "_http._tcp.web SRV 20 0 8002 b",
            "a A 127.0.0.1",
            "a AAAA ::1",
            "b A 127.0.0.2",
        )
        async with watching(
            Discoverer(settings(server.address)), f"_http._tcp.web.{ZONE}", mode="srv"
        ) as seen:
            await seen.until(lambda: seen.addresses == usable("::1", "127.0.0.1", "127.0.0.2"))
            assert {(e.port, e.weight, e.priority, e.hostname) for e in seen.last.endpoints} == {
                (8001, 7, 0, f"a.{ZONE}"),
                (8002, 1, 1, f"b.{ZONE}"),
            }
            # The target stands outside the zone: no glue, and nobody to ask but hosts.
            server.set_records("_http._tcp.web SRV 1 1 8003 localhost.")
            await seen.until(lambda: seen.addresses == usable("::1", "127.0.0.1"))
            server.set_records("_http._tcp.web SRV 0 0 0 .")
            await seen.until(lambda: seen.addresses == [])
            assert "decidedly not available" in seen.last.error

    asyncio.run(scenario())


def test_a_big_answer_comes_over_tcp(server: DnsServer) -> None:
    async def scenario() -> None:
        many = [f"127.1.{i // 200}.{i % 200 + 1}" for i in range(500)]
        server.set_records(*(f"big A {address}" for address in many))
        discoverer = Discoverer(settings(server.address, timeout_s=3.0, max_endpoints=400))
        async with watching(discoverer, f"big.{ZONE}") as seen:
            await seen.until(lambda: seen.last.state == "ready")
            assert seen.addresses == many[:400]
            assert "has 500 endpoints" in seen.last.error

    asyncio.run(scenario())


def test_the_second_name_server_takes_over(server: DnsServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        silent = socket_that_never_answers()
        with DnsServer(tmp_path / "second", ["web A 127.0.0.1"]) as second:
            servers = (silent.getsockname(), server.address, second.address)
            async with watching(Discoverer(settings(*servers)), f"web.{ZONE}") as seen:
                await seen.until(lambda: seen.addresses == ["127.0.0.1"])
                server.kill()
                second.set_records("web A 127.0.0.2")
                await seen.until(lambda: seen.addresses == ["127.0.0.2"])
                assert {r.state for r in seen.reports[1:]} == {"ready"}  # never stale
        silent.close()

    asyncio.run(scenario())


def test_a_hanging_name_blocks_no_other(server: DnsServer) -> None:
    async def scenario() -> None:
        async with forwarder(server, drops=b"\x04hang") as address:
            discoverer = Discoverer(settings(address, timeout_s=5.0))
            started = time.monotonic()
            async with (
                watching(discoverer, f"hang.{ZONE}") as hanging,
                watching(discoverer, f"hang.{ZONE}", f"web.{ZONE}") as mixed,
                watching(discoverer, f"web.{ZONE}") as seen,
            ):
                await seen.until(lambda: seen.addresses == ["127.0.0.1"], 3)
                await mixed.until(lambda: mixed.addresses == ["127.0.0.1"], 3)
                server.set_records("web A 127.0.0.2")
                await seen.until(lambda: seen.addresses == ["127.0.0.2"], 3)
                assert time.monotonic() - started < 4.5  # before any query timed out
                assert hanging.last.state == "pending"

    asyncio.run(scenario())


def test_search_list_from_resolv_conf_and_its_change(server: DnsServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        server.set_records("web.prod A 127.0.0.1", "web.test A 127.0.0.2")
        conf, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
        head = f"nameserver [127.0.0.1]:{server.port}\noptions ndots:2 timeout:1\n"
        conf.write_text(f"{head}search nothing.{ZONE} prod.{ZONE}\n")
        discoverer = Discoverer(DnsSettings(resolv_conf=str(conf), hosts_file=str(hosts)))
        async with watching(discoverer, "web") as seen:
            await seen.until(lambda: seen.addresses == ["127.0.0.1"])
            conf.write_text(f"{head}search test.{ZONE}\n")
            await seen.until(lambda: seen.addresses == ["127.0.0.2"])
            hosts.write_text("127.0.0.3 WEB\n")
            await seen.until(lambda: seen.addresses == ["127.0.0.3"])

    asyncio.run(scenario())


def test_nobody_listens_anywhere() -> None:
    async def scenario() -> None:
        async with watching(Discoverer(settings(("127.0.0.1", free_port()))), "web.test") as seen:
            await seen.until(lambda: seen.last.state == "failed")
            assert "Connection refused" in seen.last.error

    asyncio.run(scenario())


def usable(*addresses: str) -> list[str]:
    """Without those of a family that this machine does not have."""
    return [a for a in addresses if has_route(a)]


def socket_that_never_answers() -> socket.socket:
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    return silent


class _Forwarder(asyncio.DatagramProtocol):
    """Passes queries on to a real server, but swallows those for one name."""

    def __init__(self, target: Server, drops: bytes) -> None:
        self._target = target
        self._drops = drops
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self._drops not in data:
            task = asyncio.ensure_future(self._forward(data, addr))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, data: bytes, addr: object) -> None:
        answer = await exchange(
            self._target, data, tcp=False, timeout_s=2, matches=lambda wire: True
        )
        self.transport.sendto(answer, addr)  # type: ignore[attr-defined]


@asynccontextmanager
async def forwarder(server: DnsServer, drops: bytes) -> AsyncIterator[Server]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Forwarder(server.address, drops), local_addr=("127.0.0.1", 0)
    )
    try:
        yield transport.get_extra_info("sockname")
    finally:
        transport.close()
        await asyncio.sleep(0)
