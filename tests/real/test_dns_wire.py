"""Queries over real sockets: forged datagrams, servers that hang up, stall or cut answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.discovery.answers import Records
from meshclient.discovery.dns_settings import DnsSettings, Server
from meshclient.discovery.messages import Question, is_truncated
from meshclient.discovery.resolver import Resolver
from meshclient.discovery.wire import exchange

Script = Callable[[bytes], list[bytes]]


def answer_to(query: bytes, address: str = "127.0.0.1", count: int = 1) -> dns.message.Message:
    message = dns.message.from_wire(query)
    answer = dns.message.make_response(message, recursion_available=True)
    name = message.question[0].name
    data = [address] + [f"127.9.0.{i}" for i in range(1, count)]
    answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", *data))
    return answer


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, script: Script) -> None:
        self._script = script

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        for wire in self._script(data):
            self.transport.sendto(wire, addr)  # type: ignore[attr-defined]


async def _bind(
    udp: Script, handle: Callable[..., Awaitable[None]] | None
) -> tuple[asyncio.DatagramTransport, asyncio.Server | None]:
    """One port for both; the one that UDP is given may be taken on TCP, so ask again."""
    loop = asyncio.get_running_loop()
    for _ in range(20):
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Udp(udp), local_addr=("127.0.0.1", 0)
        )
        if handle is None:
            return transport, None
        try:
            address = transport.get_extra_info("sockname")
            return transport, await asyncio.start_server(handle, *address)
        except OSError:
            transport.close()
            await asyncio.sleep(0)
    raise AssertionError("no port is free on both UDP and TCP")


@asynccontextmanager
async def serve(
    udp: Script,
    tcp: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None,
) -> AsyncIterator[Server]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert tcp is not None
        try:
            await tcp(reader, writer)
        finally:
            writer.close()

    transport, listener = await _bind(udp, handle if tcp else None)
    try:
        yield transport.get_extra_info("sockname")
    finally:
        transport.close()
        if listener:
            listener.close()
            await listener.wait_closed()
        await asyncio.sleep(0.02)


async def ask(address: Server, timeout_s: float = 0.3) -> Records | str:
    settings = DnsSettings(
        nameservers=(address,), attempts=1, timeout_s=timeout_s, resolv_conf="/nonexistent"
    )
    resolver = Resolver(settings, clock=time.monotonic, environ={})
    part = (await resolver.lookup("web.test.", ("A",))).parts["A"]
    return part if isinstance(part, Records) else part.text


def test_forged_and_broken_datagrams_are_passed_over() -> None:
    def forge(query: bytes) -> list[bytes]:
        wrong_id = answer_to(query, "127.6.6.6")
        wrong_id.id ^= 1
        other = dns.message.make_query("other.test.", "A", id=dns.message.from_wire(query).id)
        wrong_question = answer_to(other.to_wire(), "127.6.6.6").to_wire()
        return [b"", b"\xff" * 40, query, wrong_id.to_wire(), wrong_question]

    async def scenario() -> None:
        async with serve(lambda q: [*forge(q), answer_to(q).to_wire()]) as address:
            found = await ask(address)
            assert isinstance(found, Records)
            assert found.addresses == ("127.0.0.1",)
        async with serve(forge) as address:
            assert "no answer within 0.3 s" in str(await ask(address))

    asyncio.run(scenario())


def cut(query: bytes) -> list[bytes]:
    """Truncated in the middle of a record, as some servers do."""
    answer = answer_to(query, count=40)
    answer.flags |= dns.flags.TC
    return [answer.to_wire()[:200]]


def test_a_cut_answer_is_fetched_over_tcp() -> None:
    async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        wire = answer_to(await reader.readexactly(size), count=40).to_wire()
        framed = len(wire).to_bytes(2, "big") + wire
        for start in range(0, len(framed), 100):  # in pieces: TCP has no records
            writer.write(framed[start : start + 100])
            await writer.drain()

    async def scenario() -> None:
        async with serve(cut, over_tcp) as address:
            found = await ask(address, timeout_s=3)
            assert isinstance(found, Records)
            assert len(found.addresses) == 40

    asyncio.run(scenario())


def test_tcp_that_hangs_up_stalls_or_answers_something_else_is_a_failure() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"\x00")

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = answer_to(dns.message.make_query("other.test.", "A").to_wire()).to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        await writer.drain()

    async def scenario() -> None:
        async with serve(cut, hang_up) as address:
            assert "127.0.0.1" in str(await ask(address))
        async with serve(cut, stall) as address:
            assert "no answer within 0.3 s" in str(await ask(address))
        async with serve(cut, other) as address:
            assert "not for this query" in str(await ask(address))
        async with serve(cut) as address:  # nobody listens on TCP
            assert "Connect" in str(await ask(address))

    asyncio.run(scenario())


def test_a_cancelled_query_leaves_nothing_open() -> None:
    async def scenario() -> None:
        async with serve(lambda query: []) as address:
            query = exchange(address, b"x", tcp=False, timeout_s=9, matches=lambda wire: True)
            task = asyncio.ensure_future(query)
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scenario())  # an unclosed socket would be a ResourceWarning, hence an error


@given(st.binary(max_size=80), st.booleans(), st.integers(0, 255))
def test_no_datagram_breaks_the_reader(noise: bytes, with_id: bool, flags: int) -> None:
    """Whatever arrives is None or an answer that repeats the question."""
    question = Question("web.test.", "A")
    head = question.wire[:2] + bytes([0x80 | flags & 0x07, flags]) if with_id else b""
    answer = question.read(head + noise)
    if answer is not None:
        empty_error = not answer.question and answer.rcode() != 0
        assert empty_error or answer.question[0].name.to_text() == "web.test."
        assert isinstance(is_truncated(answer), bool)
