"""A scripted DNS: answers built in memory, a sleep that the test steps, no socket, no clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from meshclient.discovery.dns import DnsDiscovery
from meshclient.discovery.dns_settings import DnsSettings, Server
from meshclient.model.endpoint import DnsSource, Endpoint, EndpointSet

SOA = "ns. admin. 1 60 60 60 7"


class ScriptedDns:
    """An exchange that answers from a table and records what it was asked.

    Records: ``(name, type) -> [ttl, *rdata]``; a text instead of a list is an
    rcode (``NXDOMAIN``, ``SERVFAIL``), ``timeout``, ``refused-connection`` or ``hang``.
    ``servers`` overrides all answers of one server.
    """

    def __init__(self, table: dict[tuple[str, str], list[object] | str] | None = None) -> None:
        self.table = dict(table or {})
        self.servers: dict[Server, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.asked_servers: list[Server] = []
        self.tcp: list[bool] = []
        self.additional: list[tuple[str, str, int, str]] = []
        self.truncate_udp = False
        self.edns_unknown = False
        self.lame = False
        self.in_flight = 0
        self.most_in_flight = 0

    async def __call__(
        self,
        server: Server,
        query: bytes,
        *,
        tcp: bool,
        timeout_s: float,
        matches: Callable[[bytes], bool],
    ) -> bytes:
        message = dns.message.from_wire(query)
        question = message.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        name = question.name.to_text()
        self.asked.append((name, kind))
        self.asked_servers.append(server)
        self.tcp.append(tcp)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            said = self.servers.get(server) or self.table.get((name, kind), "NXDOMAIN")
            if said == "hang":
                await asyncio.Event().wait()
            if said == "timeout":
                raise TimeoutError
            if said == "refused-connection":
                raise ConnectionRefusedError(111, "Connection refused")
        finally:
            self.in_flight -= 1
        wire = self._answer(message, name, kind, said, tcp).to_wire(max_size=65535)
        assert matches(wire)
        return wire

    def _answer(
        self, query: dns.message.Message, name: str, kind: str, said: list[object] | str, tcp: bool
    ) -> dns.message.Message:
        answer = dns.message.make_response(query, recursion_available=not self.lame)
        if self.edns_unknown and query.edns >= 0:
            answer.set_rcode(dns.rcode.FORMERR)
        elif self.truncate_udp and not tcp:
            answer.flags |= dns.flags.TC
        elif isinstance(said, str):
            answer.set_rcode(dns.rcode.from_text(said))
            self._deny(answer)
        elif len(said) < 2:
            self._deny(answer)
        else:
            ttl, *data = said
            self._add(answer, name, kind, int(str(ttl)), [str(d) for d in data])
            for extra, extra_kind, extra_ttl, value in self.additional:
                answer.additional.append(
                    dns.rrset.from_text(extra, extra_ttl, "IN", extra_kind, value)
                )
        return answer

    def _add(
        self, answer: dns.message.Message, name: str, kind: str, ttl: int, data: list[str]
    ) -> None:
        if data[0].startswith("CNAME "):
            target = data[0].removeprefix("CNAME ")
            answer.answer.append(dns.rrset.from_text(name, ttl, "IN", "CNAME", target))
            beyond = self.table.get((target, kind), "outside")
            if isinstance(beyond, list) and len(data) == 1:
                self._add(answer, target, kind, int(str(beyond[0])), [str(d) for d in beyond[1:]])
            return
        answer.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *data))

    def _deny(self, answer: dns.message.Message) -> None:
        if not self.lame:
            answer.authority.append(dns.rrset.from_text(".", 900, "IN", "SOA", SOA))


class Watch:
    """One watched source, driven refresh by refresh."""

    def __init__(self, discovery: DnsDiscovery, source: DnsSource) -> None:
        self.reports: list[EndpointSet] = []
        self.task = asyncio.ensure_future(discovery.watch(source, self.reports.append))

    @property
    def last(self) -> EndpointSet:
        return self.reports[-1]

    @property
    def addresses(self) -> list[str]:
        return [e.address for e in self.last.endpoints]


class Stage:
    """A DnsDiscovery on a scripted DNS, whose sleeps end when the test says so."""

    def __init__(self, dns_: ScriptedDns, hosts: str = "", **options: object) -> None:
        self.dns = dns_
        self.sleeps: list[float] = []
        self.now = 0.0
        self._sleepers: list[asyncio.Future[None]] = []
        self.rand = 0.0
        self.unroutable: set[str] = set()
        options.setdefault("nameservers", (("127.0.0.1", 53),))
        options.setdefault("search", ())
        options.setdefault("resolution_delay_s", 0.0)
        self.discovery = DnsDiscovery(
            DnsSettings(resolv_conf="/nonexistent", hosts_file=hosts or "/nonexistent", **options),  # type: ignore[arg-type]
            clock=lambda: self.now,
            rand=lambda: self.rand,
            sleep=self._sleep,
            exchange=dns_,
            has_route=lambda address: address not in self.unroutable,
            environ={},
        )

    async def _sleep(self, delay_s: float) -> None:
        self.sleeps.append(delay_s)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(waiter)
        await waiter

    async def watch(self, *names: str, mode: str = "strict", port: int = 80) -> Watch:
        targets = tuple(Endpoint(name, port) for name in names)
        watch = Watch(self.discovery, DnsSource(targets, mode))  # type: ignore[arg-type]
        await self.settle()
        return watch

    async def refresh(self) -> None:
        """Every sleeping name wakes and looks up once."""
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        await self.settle()

    async def settle(self) -> None:
        """Let every task run until it can do nothing more."""
        for _ in range(200):
            await asyncio.sleep(0)
