"""What the sync and the async httpx driver share: from a client's request to the
core's words and back. Nothing here sends, waits or decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meshclient import errors
from meshclient.call import Call
from meshclient.clients.families import family_of
from meshclient.clients.warming import ClusterNeighbours
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.request import LocalReply, RequestHead
from meshclient.telemetry.propagation import outgoing, withhold
from meshclient.transport.endpoint_slots import counts_for, counts_of
from meshclient.transport.interface import Protocol, Target, WireError, WireRequest
from meshclient.transport.proxy import Proxy, parse_proxy
from meshclient.transport.slots import ConnectionSlots, slots_for
from meshclient.transport.tls import TlsIdentity
from meshclient.transport.tls_policy import TWICE, context_of, server_name

if TYPE_CHECKING:
    from ssl import SSLContext

    from meshclient.attempt import Attempt
    from meshclient.balancing import EndpointState
    from meshclient.clients.families import Family
    from meshclient.clients.runtime import Runtime
    from meshclient.cluster_state import ClusterState, Lane
    from meshclient.model.cluster import TlsSettings
    from meshclient.model.endpoint import Endpoint
    from meshclient.transport.interface import WireResponse
    from meshclient.transport.tls_context import RotatingContext

#: Packages whose transport API the drivers speak.
FAMILIES = ("httpx", "httpx2")

_PORTS = {"http": 80, "https": 443}

#: What httpx sets where the caller states no timeout.
UNSTATED_TIMEOUT = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}

_NO_TIMEOUT: dict[str, float | None] = {}

#: Targets of TLS endpoints remembered per transport.
_MAX_TLS_TARGETS = 4096


def request_head(request: Any) -> RequestHead:
    """The decision core's view of a client's request.

    Raises the family's UnsupportedProtocol: another scheme (``wss``, a misspelled
    ``https``) must never go out in plain text.
    """
    url = request.url
    raw = request.headers.raw
    scheme = url.scheme
    standard_port = _PORTS.get(scheme)
    if standard_port is None:
        raise family_of(request).unsupported(request)
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
        port or standard_port,
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


def new_call(
    runtime: Runtime,
    request: Any,
    replayable: bool,
    now: float,
    head: RequestHead | None = None,
    dry: bool = False,
) -> Call:
    """The decision core's side of one request, with what it carries on. Raises ClosedError.

    ``head``: not what the request says. ``dry``: no filter is entered.
    """
    plane = runtime.current()
    head = head or request_head(request)
    given = head.headers
    inbound = outgoing(head)
    call = Call(
        plane,
        head,
        now,
        runtime.rand,
        replayable,
        strategies=runtime.strategies,
        wall_clock=runtime.wall_clock,
        dry=dry,
        inbound=inbound,
    )
    if head.headers is not given and not call.virtual_host_name:
        withhold(head, given.raw, plane.snapshot.propagation.unknown_hosts)
    return call


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


def held_until(request: Any, call: Call, unstated_yields: bool, now: float) -> float | None:
    """When a caller whose call is held gives up (monotonic seconds); None: never.

    Its own limits hold as in :func:`caller_timeouts`; which limit the route has is not
    decided yet, but whether it has one is.
    """
    timeouts: Mapping[str, float | None] = request.extensions.get("timeout", _NO_TIMEOUT)
    stated = timeouts.get("read")
    assert call.route is not None
    has_own = call.route.forward.timeout_s is not None
    if stated is None or (unstated_yields and has_own and timeouts == UNSTATED_TIMEOUT):
        return call.give_up_at
    until = now + stated
    return until if call.give_up_at is None else min(until, call.give_up_at)


def wire_request(
    call: Call, attempt: Attempt, body: Any, timeouts: Mapping[str, float | None]
) -> WireRequest:
    """One try, ready for an engine."""
    head = call.head
    options = attempt.connection
    connect_s: float | None = options.connect_timeout_s
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
        pool_timeout_s=timeouts.get("pool"),
        resend=call.may_resend if options.resend_stale else None,
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


def finish(attempt: Attempt, wire: WireResponse, now: float) -> None:
    """The last try is over, body and all: its trailers tell, and it counts no more. Idempotent."""
    observe = attempt.cluster_state.on_trailers
    if observe is not None and not attempt.is_closed:
        trailers = wire.get_extra_info("trailers")
        if trailers:
            observe(attempt.state, wire.headers, trailers, now)
    attempt.close(now)


def wire_response(
    family: Family, call: Call, attempt: Attempt, wire: WireResponse, stream: Any, network: Any
) -> Any:
    """The endpoint's response as the family's own, with the route's response edits."""
    headers = wire.headers
    route = call.route
    if route is not None and route.has_response_edits:
        edited = HeaderMap(headers)
        route.edit_response(edited, call.head, call.weighted, wire.status, attempt.endpoint)
        headers = edited.raw
    added = call.added_response_headers(attempt)
    if added is not None:
        names = {name for name, _ in added} - {b"set-cookie"}
        headers = [pair for pair in headers if pair[0].lower() not in names] + added
    if call.filter_headers is not None:
        headers = [*headers, *call.filter_headers]
    return family.response(
        wire.status,
        headers=headers,
        stream=stream,
        extensions={
            "http_version": wire.http_version,
            "reason_phrase": wire.reason,
            "network_stream": network,
            "meshclient": call.report,
        },
    )


def failed(
    runtime: Runtime, family: Family, request: Any, call: Call, error: errors.CallError
) -> Any:
    """A call without a response: raised, or answered as Envoy would."""
    if runtime.respond:
        return local_response(family, request, reply_to(error, call), call)
    raise family.error(error, request) from error.__cause__


def local_response(family: Family, request: Any, reply: LocalReply, call: Call) -> Any:
    """A response that no upstream gave."""
    # The answer to HEAD has the headers of the one to GET, and no body (RFC 9110 section 9.3.2).
    body = b"" if request.method == "HEAD" else reply.body
    return family.response(
        reply.status,
        headers=reply.headers.raw,
        stream=family.byte_stream(body),
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
    if call.filter_headers is not None:
        reply.headers.edit((), call.filter_headers)
    return reply


class Targets:
    """Where the wire goes, remembered: on the endpoint's state for plain text,
    per TLS name and context for ``https``. Thread-safe: entries are only added
    (and the table cleared when full), and two threads may compute the same one."""

    __slots__ = ("_context", "_offered", "_secure", "_tls")

    def __init__(self, context: Callable[[], SSLContext], http2: bool = False) -> None:
        """``http2``: ``context`` offers h2 to the hosts that the caller dials with https."""
        self._context = context
        self._offered: Protocol = "auto" if http2 else "http1"
        self._tls: dict[tuple[EndpointState, str], Target] = {}
        self._secure: dict[tuple[EndpointState, TlsIdentity], Target] = {}

    def of(self, call: Call, attempt: Attempt, request: Any) -> Target:
        """The pool key of a try."""
        target = self._of(call, attempt, request)
        return _on_high_lane(target, attempt.lane) if attempt.lane.apart else target

    def _of(self, call: Call, attempt: Attempt, request: Any) -> Target:
        head = call.head
        state = attempt.state
        if head.scheme != "https":
            target: Target | None = state.wire
            if target is None:
                tls = _originated(attempt)
                if tls is not None:
                    return self._secured(call, attempt, tls)
                cluster = attempt.cluster_state
                target = state.wire = _wire_target(cluster, state, None, _protocol(cluster))
            return target
        if _originated(attempt) is not None:
            raise call.refuse(attempt, TWICE)
        name = request.extensions.get("sni_hostname") or head.dialled
        found = self._tls.get((state, name))
        # Another object means another answer of the name's DNS.
        if found is None or found.more_addresses is not state.endpoint.more_addresses:
            if len(self._tls) >= _MAX_TLS_TARGETS:
                self._tls.clear()
            identity = TlsIdentity(name, self._context())
            found = _wire_target(attempt.cluster_state, state, identity, self._offered)
            self._tls[state, name] = found
        return found

    def _secured(self, call: Call, attempt: Attempt, tls: TlsSettings) -> Target:
        """An endpoint that the policy wants spoken to over TLS, for a caller who need not know."""
        cluster = attempt.cluster_state
        protocol = _protocol(cluster)
        context = _context(cluster, protocol)
        problem = context.problem()
        if problem:
            raise call.refuse(attempt, problem)
        state = attempt.state
        identity = TlsIdentity(server_name(cluster.cluster, tls, call.head.authority), context)
        found = self._secure.get((state, identity))
        # Another object means another answer of the name's DNS.
        if found is None or found.more_addresses is not state.endpoint.more_addresses:
            if len(self._secure) >= _MAX_TLS_TARGETS:
                self._secure.clear()
            found = _wire_target(cluster, state, identity, protocol)
            self._secure[state, identity] = found
        return found


def policy_target(cluster: ClusterState, authority: str, state: EndpointState) -> Target:
    """Where ``http`` calls to ``authority`` go, before there is one."""
    protocol = _protocol(cluster)
    tls = cluster.cluster.policy.tls
    identity = None
    if tls is not None and tls.mode != "disable":
        name = server_name(cluster.cluster, tls, authority)
        identity = TlsIdentity(name, _context(cluster, protocol))
    return _wire_target(cluster, state, identity, protocol)


def _originated(attempt: Attempt) -> TlsSettings | None:
    """The policy's TLS settings, where it wants connections secured."""
    tls = attempt.cluster_state.cluster.policy.tls
    return None if tls is None or tls.mode == "disable" else tls


def _context(cluster: ClusterState, protocol: Protocol) -> RotatingContext:
    """Kept with the cluster: a call must not pay for finding it by its settings."""
    key = f"tls {protocol}"
    found: RotatingContext | None = cluster.shared.get(key)
    if found is None:
        found = cluster.shared.setdefault(key, context_of(cluster.cluster))
    return found


def _protocol(cluster: ClusterState) -> Protocol:
    """What the policy says the endpoints speak, whatever the caller's client does."""
    return "h2" if cluster.cluster.protocol == "h2" else "http1"


def _wire_target(
    cluster: ClusterState, state: EndpointState, identity: TlsIdentity | None, protocol: Protocol
) -> Target:
    peer, policy = state.endpoint, cluster.cluster.policy
    options = policy.connection
    ahead = options.warm_up or options.preconnect_ratio > 1.0
    return Target(
        peer.address,
        peer.port,
        identity,
        options,
        more_addresses=peer.more_addresses,
        connections=_connection_slots(cluster),
        protocol=protocol,
        proxy=_proxy_to(peer, policy.proxy),
        neighbours=ClusterNeighbours(cluster, state) if ahead else None,
    )


def _proxy_to(peer: Endpoint, proxy: str) -> Proxy | None:
    """The policy's proxy; a unix socket is on this machine, and needs none."""
    return parse_proxy(proxy) if proxy and not peer.address.startswith("unix:") else None


def _connection_slots(cluster: ClusterState) -> ConnectionSlots | None:
    """One object per cluster and process, whichever thread asks first."""
    found: ConnectionSlots | None = cluster.shared.get("connections")
    if found is None:
        limits = cluster.lane.limits
        made = slots_for(limits, counts_for(limits, cluster.high.limits))
        found = cluster.shared.setdefault("connections", made)
    return found


def _on_high_lane(target: Target, lane: Lane) -> Target:
    """``target`` with the connections of the important calls, where those have limits."""
    targets: dict[Target, Target] = lane.shared.setdefault("targets", {})
    found = targets.get(target)
    # Another object means another answer of the name's DNS.
    if found is None or found.more_addresses is not target.more_addresses:
        counts = counts_of(target.connections)
        slots = lane.shared.setdefault("connections", slots_for(lane.limits, counts))
        if len(targets) >= _MAX_TLS_TARGETS:
            targets.clear()
        found = targets[target] = target.counted_by(slots)
    return found
