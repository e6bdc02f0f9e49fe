"""Names to records: search list, name servers, retries, truncation, CNAME chains.

Asks the DNS only; the hosts file and address literals come before, in
:mod:`meshclient.discovery.names`. When to ask again is not decided here.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from meshclient.discovery.answers import (
    FailureKind,
    Kind,
    LookupFailed,
    LookupResult,
    Part,
    Records,
)
from meshclient.discovery.dns_settings import (
    DnsSettings,
    ResolvConf,
    Server,
    parse_resolv_conf,
    server_text,
)
from meshclient.discovery.search import candidates, search
from meshclient.discovery.servers import ServerOrder
from meshclient.discovery.watched_file import WatchedFile
from meshclient.discovery.wire import Exchange, exchange

if TYPE_CHECKING:
    from dns.message import Message

    from meshclient.discovery.messages import Question

Partial = Callable[[LookupResult], None]

#: CNAMEs that are asked on, after the 16 that dnspython follows in one answer.
MAX_ALIASES = 8


class Resolver:
    """Looks names up in the DNS. One event loop, any number of tasks.

    ``clock`` gives monotonic seconds. The queries of all tasks share the limit
    ``settings.max_queries``.
    """

    __slots__ = ("_environ", "_exchange", "_file", "_order", "_settings", "_slots")

    def __init__(
        self,
        settings: DnsSettings,
        *,
        clock: Callable[[], float],
        exchange: Exchange = exchange,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._exchange = exchange
        self._environ = environ
        self._order = ServerOrder(clock)
        self._slots = asyncio.Semaphore(settings.max_queries)
        self._file: WatchedFile[ResolvConf] = WatchedFile(
            settings.resolv_conf_path(environ), self._parse
        )

    def _parse(self, text: str) -> ResolvConf:
        return self._settings.over(parse_resolv_conf(text, self._environ, socket.gethostname()))

    async def lookup(
        self, name: str, kinds: Sequence[Kind], partial: Partial | None = None
    ) -> LookupResult:
        """The records of ``kinds`` for ``name`` after the search list; never raises for the DNS.

        ``partial`` is called when one kind has records and the others are late.
        """
        conf = self._file.get()
        wanted = [k for k in kinds if k != "AAAA" or not conf.no_aaaa] or list(kinds)
        plan = candidates(name, conf)
        if not plan:
            bad = LookupFailed("malformed", f"{name!r} is not a domain name")
            return LookupResult(name, dict.fromkeys(wanted, bad))

        async def ask(candidate: str) -> LookupResult:
            return await self._ask_kinds(candidate, wanted, conf, partial)

        return await search(plan, ask)

    async def _ask_kinds(
        self, name: str, kinds: Sequence[Kind], conf: ResolvConf, partial: Partial | None
    ) -> LookupResult:
        tasks = {k: asyncio.ensure_future(self._part(name, k, conf)) for k in kinds}
        try:
            if partial and len(tasks) > 1:
                await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                # RFC 8305 section 3: give the other family a moment, not a timeout.
                await asyncio.wait(tasks.values(), timeout=self._settings.resolution_delay_s)
                early = LookupResult(name, {k: t.result() for k, t in tasks.items() if t.done()})
                if early.found and len(early.parts) < len(tasks):
                    partial(early)
            return LookupResult(name, {kind: await task for kind, task in tasks.items()})
        finally:
            for task in tasks.values():
                task.cancel()

    async def _part(self, name: str, kind: Kind, conf: ResolvConf) -> Part:
        try:
            return await self._follow_aliases(name, kind, conf)
        except LookupFailed as failure:
            return LookupFailed(failure.kind, f"{name} {kind}: {failure.text}")

    async def _follow_aliases(self, name: str, kind: Kind, conf: ResolvConf) -> Records:
        records = await self._query(name, kind, conf)
        ttl_s = records.ttl_s
        for _ in range(MAX_ALIASES):
            if not records.alias:
                return replace(records, ttl_s=ttl_s)
            records = await self._query(records.alias, kind, conf)
            ttl_s = min(ttl_s, records.ttl_s)
        raise LookupFailed("malformed", f"the CNAME chain of {name} is too long")

    async def _query(self, name: str, kind: Kind, conf: ResolvConf) -> Records:
        """Ask the servers in turn until one gives a definite answer."""
        failures: dict[Server, LookupFailed] = {}
        for _ in range(conf.attempts):
            for server in self._order.order(conf.nameservers, conf.rotate):
                earlier = failures.get(server)
                if earlier and earlier.kind != "timeout":
                    continue  # it said no; only silence is worth another try
                try:
                    return await self._ask_server(server, name, kind, conf)
                except LookupFailed as failure:
                    failures[server] = failure
        raise _combine(failures)

    async def _ask_server(self, server: Server, name: str, kind: Kind, conf: ResolvConf) -> Records:
        from meshclient.discovery.messages import Question, dislikes_edns, interpret

        answer = await self._send(server, Question(name, kind), conf)
        if dislikes_edns(answer):
            answer = await self._send(server, Question(name, kind, edns=False), conf)
        return interpret(answer, kind, server_text(server))

    async def _send(self, server: Server, question: Question, conf: ResolvConf) -> Message:
        """Over UDP, then over TCP when the answer was cut; keeps the books on the server."""
        from meshclient.discovery.messages import is_truncated

        try:
            answer = await self._exchange_once(server, question, conf, tcp=conf.use_tcp)
            if is_truncated(answer) and not conf.use_tcp:
                answer = await self._exchange_once(server, question, conf, tcp=True)
        except TimeoutError:
            self._order.silent(server)
            raise LookupFailed("timeout", f"no answer within {conf.timeout_s:g} s") from None
        except (OSError, EOFError) as error:
            self._order.silent(server)
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise LookupFailed("unreachable", text) from error
        self._order.answered(server)
        return answer

    async def _exchange_once(
        self, server: Server, question: Question, conf: ResolvConf, *, tcp: bool
    ) -> Message:
        found: list[Message] = []

        def matches(wire: bytes) -> bool:
            answer = question.read(wire)
            found.extend([answer] if answer is not None else [])
            return bool(found)

        async with self._slots:
            await self._exchange(
                server, question.wire, tcp=tcp, timeout_s=conf.timeout_s, matches=matches
            )
        return found[0]


def _combine(failures: Mapping[Server, LookupFailed]) -> LookupFailed:
    """One failure for all servers; the kind decides what the search list does next."""
    kinds = {failure.kind for failure in failures.values()}
    order: tuple[FailureKind, ...] = ("servfail", "timeout", "refused", "malformed", "unreachable")
    kind = next(kind for kind in order if kind in kinds)
    said = "; ".join(f"{server_text(s)}: {f.text}" for s, f in failures.items())
    return LookupFailed(kind, said)
