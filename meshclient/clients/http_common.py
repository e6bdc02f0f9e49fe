"""What the sync and the async httpx driver share: from a client's request to the
core's words and back. Nothing here sends, waits or decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meshclient import errors
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.request import LocalReply, RequestHead
from meshclient.transport.interface import Target, WireError, WireRequest
from meshclient.transport.tls import TlsIdentity

if TYPE_CHECKING:
    from ssl import SSLContext

    from meshclient.balancing import EndpointState
    from meshclient.call import Attempt, Call
    from meshclient.clients.families import Family

#: Packages whose transport API the drivers speak.
FAMILIES = ("httpx", "httpx2")

_PORTS = {"http": 80, "https": 443}

#: What httpx sets where the caller states no timeout.
UNSTATED_TIMEOUT = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}

_NO_TIMEOUT: dict[str, float | None] = {}

#: Targets of TLS endpoints remembered per transport.
_MAX_TLS_TARGETS = 4096


def request_head(request: Any) -> RequestHead:
    """The decision core's view of a client's request."""
    url = request.url
    raw = request.headers.raw
    scheme = url.scheme
    authority = None
    for name, value in raw:
        if name == b"Host" or name.lower() == b"host":
            authority = value.decode("latin-1")
            break
    dialled = url.raw_host.decode("ascii")
    port = url.port
    if authority is None:
        authority = dialled if port is None else f"{dialled}:{port}"
    return RequestHead(
        request.method,
        scheme,
        authority,
        port or _PORTS.get(scheme, 0),
        _target(request, url),
        HeaderMap(raw),
        dialled,
    )


def _target(request: Any, url: Any) -> str:
    target = request.extensions.get("target")
    return (url.raw_path if target is None else target).decode("latin-1")  # type: ignore[no-any-return]


def body_of(request: Any, family: Family) -> tuple[Any, bool]:
    """The body (None, bytes or a stream of bytes) and whether it can be sent twice."""
    try:
        content = request.content
    except family.not_read:
        stream = request.stream
        return stream, _is_replayable(stream)
    return content or None, True


def _is_replayable(stream: Any) -> bool:
    """True for bodies whose iteration starts again from the beginning.

    That holds for a list or another re-iterable given as ``content=`` and for a
    multipart form whose files can seek; a generator, an iterator or a file
    object is spent after one pass. Of a stream class of the caller's own
    nothing is known, so it counts as spent.
    """
    kind = type(stream)
    if kind.__module__.partition(".")[0] not in FAMILIES:
        return False
    if kind.__name__ == "MultipartStream":
        files = (field.file for field in stream.fields if hasattr(field, "file"))
        return all(isinstance(f, (bytes, str)) or _can_seek(f) for f in files)
    source = getattr(stream, "_stream", None)
    once = ("read", "aread", "__next__", "__anext__")
    return source is not None and not any(hasattr(source, name) for name in once)


def _can_seek(file: Any) -> bool:
    """A pipe has ``seek``, too; a file-like object without ``seekable`` is believed."""
    seekable = getattr(file, "seekable", None)
    return hasattr(file, "seek") if seekable is None else bool(seekable())


def caller_timeouts(request: Any, call: Call, unstated_yields: bool) -> Mapping[str, float | None]:
    """The caller's own limits in seconds; absent or None means none.

    What a caller states always holds. What httpx puts in where the caller
    stated nothing gives way to a route that has a timeout of its own,
    if ``unstated_yields`` (clients that the mesh made).
    """
    timeouts: Mapping[str, float | None] = request.extensions.get("timeout", _NO_TIMEOUT)
    if unstated_yields and call.timeout_s is not None and timeouts == UNSTATED_TIMEOUT:
        return _NO_TIMEOUT
    return timeouts


def wire_request(
    call: Call, attempt: Attempt, body: Any, timeouts: Mapping[str, float | None]
) -> WireRequest:
    """One try, ready for an engine."""
    head = call.head
    connect_s: float | None = attempt.connection.connect_timeout_s
    stated = timeouts.get("connect")
    if stated is not None and (connect_s is None or stated < connect_s):
        connect_s = stated
    read_s = timeouts.get("read")
    route = call.route
    if route is not None:
        idle_s = route.forward.idle_timeout_s
        if idle_s is not None and (read_s is None or idle_s < read_s):
            read_s = idle_s
            attempt.by_idle = True
    return WireRequest(
        head.method.encode("latin-1"),
        head.path.encode("latin-1"),
        attempt.headers,
        body,
        connect_timeout_s=connect_s,
        response_timeout_s=attempt.response_timeout_s,
        deadline=attempt.deadline,
        read_timeout_s=read_s,
        write_timeout_s=timeouts.get("write"),
    )


def failure(attempt: Attempt, error: WireError) -> Outcome:
    """What a wire error means to the core."""
    reason = error.reason
    if attempt.by_idle and error.timeout == "read":
        # The route's idle timeout ends the call, as Envoy's stream idle timeout does.
        reason = ResetReason.ROUTE_TIMEOUT
    return Outcome(reset=reason, sent=error.sent, error=error)


def body_error(call: Call, error: WireError) -> errors.CallError:
    """A failure after the response head: final, whatever the policy says."""
    return call.break_off(failure(call.attempts[-1], error))


def local_response(family: Family, request: Any, reply: LocalReply, call: Call) -> Any:
    """A response that no upstream gave."""
    return family.response(
        reply.status,
        headers=reply.headers.raw,
        stream=family.byte_stream(reply.body),
        request=request,
        extensions={"http_version": b"HTTP/1.1", "meshclient": call.report},
    )


def reply_to(error: errors.CallError, call: Call) -> LocalReply:
    """The response Envoy would give for a failure: status, body text, headers,
    with the route's own response edits."""
    body = error.body.encode("latin-1", "replace")
    headers = HeaderMap([(b"content-length", b"%d" % len(body))])
    if body:
        headers.raw.insert(1, (b"content-type", b"text/plain"))
    if isinstance(error, errors.Overflow):
        headers.add("x-envoy-overloaded", "true")
    reply = LocalReply(error.status, headers, body)
    if call.route is not None:
        call.route.edit_local_reply(reply, call.head, call.weighted)
    return reply


class Targets:
    """Where the wire goes, remembered: on the endpoint's state for plain text,
    per TLS name and context for ``https``. Thread-safe: entries are only added
    (and the table cleared when full), and two threads may compute the same one."""

    __slots__ = ("_context", "_tls")

    def __init__(self, context: Callable[[], SSLContext]) -> None:
        self._context = context
        self._tls: dict[tuple[EndpointState, str], Target] = {}

    def of(self, attempt: Attempt, head: RequestHead, request: Any) -> Target:
        """The pool key of a try."""
        state = attempt.state
        if head.scheme != "https":
            target: Target | None = state.wire
            if target is None:
                peer = state.endpoint
                target = state.wire = Target(peer.address, peer.port, None, attempt.connection)
            return target
        name = request.extensions.get("sni_hostname") or head.dialled
        found = self._tls.get((state, name))
        if found is None:
            if len(self._tls) >= _MAX_TLS_TARGETS:
                self._tls.clear()
            peer = state.endpoint
            identity = TlsIdentity(name, self._context())
            found = Target(peer.address, peer.port, identity, attempt.connection)
            self._tls[state, name] = found
        return found
