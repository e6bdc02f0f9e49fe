"""What answers an HTTP caller in the place of a call that failed for good.

Beside the drivers, for routes with a fallback only. Whether a failure has one is decided in
:mod:`meshclient.resilience.fallback`; another service is called through the driver itself, once.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from meshclient import errors
from meshclient.clients import http_common as common
from meshclient.clients.fallback_streams import AsyncTee, SyncTee
from meshclient.model.fallback import DEFAULT_FALLBACK, Fallback
from meshclient.model.headers import HeaderMap
from meshclient.resilience.fallback import FALLBACK_HEADER, covers_status, may_go_elsewhere

if TYPE_CHECKING:
    from meshclient.call import Call
    from meshclient.clients.families import Family
    from meshclient.clients.runtime import Runtime
    from meshclient.resilience.last_good import LastGoodAnswers

#: ``(request, failure) -> response or None``; the failure is an exception or a response.
FallbackFunction = Callable[[Any, Any], Any]
Carry = Callable[..., Any]
AsyncCarry = Callable[..., Awaitable[Any]]

#: A refusal for the sake of security, and the caller's own mistakes, are nobody's to cover.
_NOT_COVERED = (errors.SecurityError, errors.InvalidRequest)


class Case:
    """One call whose route has a fallback, or whose program brings one."""

    __slots__ = ("_kept", "call", "family", "function", "request", "runtime", "settings", "started")

    def __init__(
        self, runtime: Runtime, family: Family, request: Any, call: Call, started: float
    ) -> None:
        self.runtime = runtime
        self.family = family
        self.request = request
        self.call = call
        self.started = started
        functions = runtime.functions
        self.function: FallbackFunction | None = None
        if functions is not None:
            self.function = functions.get(call.virtual_host_name)
        self.settings: Fallback = call.fallback or DEFAULT_FALLBACK
        self._kept: LastGoodAnswers | None = None
        if self.settings.last_good is not None:
            kept = runtime.last_good(call.virtual_host_name, self.settings.last_good)
            self._kept = kept if kept.may_ask(request.method, self._asked()) else None

    def _asked(self) -> HeaderMap:
        return HeaderMap(self.request.headers.raw)

    def _place(self) -> tuple[str, str]:
        target = self.request.extensions.get("target") or self.request.url.raw_path
        return f"{self.request.url.scheme}://{self.call.host}", target.decode("latin-1")

    # -- whether ---------------------------------------------------------------

    def failed(self, response: Any) -> bool:
        """Whether a response counts as a failure that has a fallback."""
        error = self.call.error
        if error is not None:  # local_replies="respond"
            return self.settings.local and not isinstance(error, _NOT_COVERED)
        return covers_status(self.settings, response.status_code)

    def covers(self, error: errors.CallError) -> bool:
        """Whether a failure without a response has a fallback."""
        return self.settings.local and not isinstance(error, _NOT_COVERED)

    # -- what ------------------------------------------------------------------

    def mark(self, response: Any, kind: str, call: Call | None = None) -> Any:
        """``response`` as an answer of the fallback: in its headers and its report."""
        call = call or self.call
        call.fallen_back = kind
        response.headers[FALLBACK_HEADER] = kind
        response.extensions["meshclient"] = call.report
        return response

    def note(self, what: str) -> None:
        """A sentence for the report."""
        self.call.notes = (*self.call.notes, what)

    def of_function(self, answer: Any) -> Any:
        """What the program's function gave, as a response; None: nothing."""
        if answer is None:
            return None
        if not isinstance(answer, self.family.response):
            wanted = f"{self.family.name}.Response or None"
            raise TypeError(f"a fallback function gives {wanted}, not {answer!r}")
        return self.mark(answer, "function")

    def kept(self) -> Any:
        """The last good answer to such a request; None: there is none."""
        if self._kept is None:
            return None
        now = self.runtime.clock()
        found = self._kept.find(*self._place(), self._asked(), now)
        if found is None:
            return None
        age = b"%d" % max(0, int(now - found.kept_at))
        length = b"%d" % len(found.body)
        headers = [*found.headers, (b"content-length", length), (b"age", age)]
        return self.mark(self._response(found.status, headers, found.body), "last-good")

    def static(self) -> Any:
        """The response of the policy; None: it has none."""
        answer = self.settings.respond
        if answer is None:
            return None
        headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in answer.headers]
        if answer.status != 204:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        body = b"" if self.request.method == "HEAD" else answer.body
        return self.mark(self._response(answer.status, headers, body), "static")

    def _response(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Any:
        return self.family.response(
            status,
            headers=headers,
            stream=self.family.byte_stream(body),
            extensions={"http_version": b"HTTP/1.1"},
        )

    def elsewhere(self) -> Call | None:
        """The call to the other service; None: there is none, or the request may not go there.

        It follows the policy of that service, has no fallback of its own, and ends when the
        caller's patience with the first does.
        """
        settings, call = self.settings, self.call
        if not settings.cluster or settings.cluster not in call.plane.clusters:
            return None
        tries = [attempt.outcome for attempt in call.attempts]
        headers = self._asked()
        method = self.request.method
        if not may_go_elsewhere(settings, method, headers, call.replayable, tries):
            self.note(f"no fallback to {settings.cluster}: a server may have acted on the request")
            return None
        second = self._second()
        second.fallback = None
        second.notes = (*call.notes, f"fallback to {settings.cluster}", *second.notes)
        second._extra_flags = (*call.flags, *second._extra_flags)
        return second

    def _second(self) -> Call:
        """One that goes to another host has that host's routes; else only the cluster differs."""
        settings, call = self.settings, self.call
        now = self.runtime.clock()
        head = common.request_head(self.request)
        if not settings.host:
            # The filters of the route have been entered once.
            made = common.new_call(
                self.runtime, self.request, call.replayable, now, head=head, dry=True
            )
            made.divert(settings.cluster)
            return made
        head.authority = head.dialled = settings.host
        head.port = call.plane.clusters[settings.cluster].cluster.port or head.port
        head.headers.set("Host", settings.host)
        return common.new_call(self.runtime, self.request, call.replayable, now, head=head)

    # -- keeping ---------------------------------------------------------------

    def watch(self, response: Any, tee: type[SyncTee] | type[AsyncTee], stream: Any) -> Any:
        """``response``, whose body is kept on its way to the caller, if it may be."""
        kept = self._kept
        if kept is None or not kept.may_keep(response.status_code, HeaderMap(response.headers.raw)):
            return response
        status, headers, asked = response.status_code, response.headers.raw, self._asked()
        place, clock = self._place(), self.runtime.clock

        def whole(body: bytes) -> None:
            kept.keep(*place, asked, status, headers, body, clock())

        response.stream = stream(tee(response.stream, whole, kept.settings.max_entry_bytes))
        return response


def carry(
    driver: Carry, runtime: Runtime, family: Family, request: Any, call: Call, *rest: Any
) -> Any:
    """A blocking call with a fallback: ``driver`` carries it, and maybe a second one."""
    case = Case(runtime, family, request, call, rest[-1])
    try:
        response = driver(family, request, call, *rest)
    except errors.CallError as error:
        if not case.covers(error):
            raise
        answer = _instead(case, driver, error, rest)
        if answer is None:
            raise
        return answer
    if not case.failed(response):
        return case.watch(response, SyncTee, family.sync_stream)
    try:
        answer = _instead(case, driver, response, rest)
    except BaseException:  # the program's function has a failure of its own
        response.close()
        raise
    if answer is None or answer is response:
        return response
    response.close()
    return answer


def _instead(case: Case, driver: Carry, failure: Any, rest: tuple[Any, ...]) -> Any:
    answer = None
    if case.function is not None:
        answer = case.of_function(_blocking(case.function(case.request, failure)))
    answer = answer or case.kept()
    second = None if answer is not None else case.elsewhere()
    if second is not None:
        body, _now, started = rest
        try:
            found = driver(case.family, case.request, second, body, case.runtime.clock(), started)
        except errors.CallError as error:
            case.note(f"the fallback failed, too: {error}")
        else:
            return case.mark(found, "service", second)
    return answer or case.static()


def _blocking(answer: Any) -> Any:
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("an async fallback function cannot serve a blocking client")
    return answer


async def carry_async(
    driver: AsyncCarry, runtime: Runtime, family: Family, request: Any, call: Call, *rest: Any
) -> Any:
    """:func:`carry` for any event loop."""
    case = Case(runtime, family, request, call, rest[-1])
    try:
        response = await driver(family, request, call, *rest)
    except errors.CallError as error:
        if not case.covers(error):
            raise
        answer = await _instead_async(case, driver, error, rest)
        if answer is None:
            raise
        return answer
    if not case.failed(response):
        return case.watch(response, AsyncTee, family.async_stream)
    try:
        answer = await _instead_async(case, driver, response, rest)
    except BaseException:
        await response.aclose()
        raise
    if answer is None or answer is response:
        return response
    await response.aclose()
    return answer


async def _instead_async(
    case: Case, driver: AsyncCarry, failure: Any, rest: tuple[Any, ...]
) -> Any:
    answer = None
    if case.function is not None:
        given = case.function(case.request, failure)
        answer = case.of_function(await given if inspect.isawaitable(given) else given)
    answer = answer or case.kept()
    second = None if answer is not None else case.elsewhere()
    if second is not None:
        body, _now, started = rest
        try:
            found = await driver(
                case.family, case.request, second, body, case.runtime.clock(), started
            )
        except errors.CallError as error:
            case.note(f"the fallback failed, too: {error}")
        else:
            return case.mark(found, "service", second)
    return answer or case.static()


__all__ = ["Case", "FallbackFunction", "carry", "carry_async"]
