"""The blocking driver: an ``httpx.BaseTransport`` (and httpx2's) over the mesh.

One loop: ask the call, send, tell the call. It holds no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from meshclient import errors
from meshclient.clients import http_common as common
from meshclient.clients.families import Family, family_of
from meshclient.clients.holding import wait_out
from meshclient.clients.network_stream import SyncNetworkStream
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome
from meshclient.transport.interface import InvalidRequest, WireError

if TYPE_CHECKING:
    from ssl import SSLContext

    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.clients.proxies import Proxies
    from meshclient.clients.runtime import Runtime
    from meshclient.transport.interface import SyncWireResponse
    from meshclient.transport.sync_engine import SyncEngine


class MeshTransport:
    """A transport for ``httpx.Client`` and ``httpx2.Client``. Thread-safe.

    Closing it frees nothing: the connections belong to the mesh, which other
    clients share.
    """

    def __init__(
        self,
        runtime: Runtime,
        engine: SyncEngine,
        context: Callable[[], SSLContext],
        unstated_yields: bool = False,
        sleep: Callable[[float], object] | None = None,
        proxies: Proxies | None = None,
        http2: bool = False,
    ) -> None:
        self._runtime = runtime
        self._engine = engine
        targets = common.Targets(context, http2)
        self._targets = targets if proxies is None else proxies.over(targets)
        self._unstated_yields = unstated_yields
        self._sleep = sleep or runtime.sleep

    def handle_request(self, request: Any) -> Any:
        """Send ``request`` as the policy says. Raises the family's exceptions."""
        runtime = self._runtime
        family = family_of(request)
        body, replayable = common.body_of(request, family)
        now = runtime.clock()
        call = common.new_call(runtime, request, replayable, now)
        if call.fallback is not None or runtime.functions is not None:
            from meshclient.clients.fallbacks import carry

            return carry(self._carry, runtime, family, request, call, body, now, now)
        return self._carry(family, request, call, body, now, now)

    def _carry(
        self, family: Family, request: Any, call: Call, body: Any, now: float, started: float
    ) -> Any:
        """A call, from its filters to its response. ``started``: when the caller began to wait."""
        runtime = self._runtime
        if call.hold is not None:
            call.give_up_at = common.held_until(request, call, self._unstated_yields, now)
            now = wait_out(runtime, call, self._sleep, now)
        if call.reply is not None:
            return common.local_response(family, request, call.reply, call)
        timeouts = common.caller_timeouts(request, call, self._unstated_yields)
        patience_s = timeouts.get("read")
        if patience_s is not None:
            call.give_up_by(started + patience_s)
        try:
            run = self._run if call.hedge is None else self._run_hedged
            attempt, wire = run(call, request, body, timeouts, now)
        except errors.CallError as error:
            return common.failed(runtime, family, request, call, error)
        except BaseException:
            call.abandon(runtime.clock())
            raise
        return self._response(family, request, call, attempt, wire)

    def _run(
        self, call: Call, request: Any, body: Any, timeouts: Any, now: float
    ) -> tuple[Attempt, SyncWireResponse]:
        """Try until the call says that it is over; raises ``call.error``."""
        clock = self._runtime.clock
        while True:
            attempt = call.next_attempt(now)
            wire: SyncWireResponse | None = None
            try:
                wire = self._engine.send(
                    self._targets.of(call, attempt, request),
                    common.wire_request(call, attempt, body, timeouts),
                )
                outcome = Outcome(wire.status, HeaderMap(wire.headers))
            except InvalidRequest as error:
                raise call.reject(attempt, error, clock()) from error
            except WireError as error:
                outcome = common.failure(attempt, error)
            try:
                delay_s = call.settle(attempt, outcome, clock())
            except BaseException:  # a retry strategy of the user's failed
                if wire is not None:
                    wire.close()
                raise
            if delay_s is None and wire is not None and call.error is None:
                return attempt, wire
            if wire is not None:
                wire.close()
            attempt.close(clock())
            if delay_s is None:
                assert call.error is not None
                raise call.error
            if delay_s > 0.0:
                self._sleep(delay_s)
            now = clock()

    def _run_hedged(
        self, call: Call, request: Any, body: Any, timeouts: Any, now: float
    ) -> tuple[Attempt, SyncWireResponse]:
        """:meth:`_run` for a call that may have several tries at once, or copies."""
        from meshclient.clients.hedged_sync import run_hedged

        return run_hedged(self, call, request, body, timeouts, now)

    def _response(
        self, family: Family, request: Any, call: Call, attempt: Attempt, wire: SyncWireResponse
    ) -> Any:
        content = wire.content
        if content is not None:
            common.finish(attempt, wire, self._runtime.clock())
            stream = family.byte_stream(content)
        else:
            stream = family.sync_stream(_Exchange(self, family, request, call, attempt, wire))
        network = _network_stream(wire, family)
        return common.wire_response(family, call, attempt, wire, stream, network)

    def close(self) -> None:
        """Nothing to free; see the class."""

    def __enter__(self) -> MeshTransport:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Exchange:
    """A response whose body is still on the wire."""

    __slots__ = ("_attempt", "_call", "_family", "_request", "_transport", "_wire")

    def __init__(
        self,
        transport: MeshTransport,
        family: Family,
        request: Any,
        call: Call,
        attempt: Attempt,
        wire: SyncWireResponse,
    ) -> None:
        self._transport = transport
        self._family = family
        self._request = request
        self._call = call
        self._attempt = attempt
        self._wire = wire

    def chunks(self) -> Iterator[bytes]:
        """The body, as it arrives."""
        try:
            yield from self._wire
        except WireError as error:
            broken = common.body_error(self._call, error)
            raise self._family.error(broken, self._request, error.timeout) from error

    def close(self) -> None:
        """End the try; an unread rest closes the connection. Idempotent."""
        try:
            self._wire.close()
        finally:
            common.finish(self._attempt, self._wire, self._transport._runtime.clock())

    def __del__(self) -> None:
        # Dropped without being closed; what it held must not stay taken.
        self.close()


def _network_stream(wire: SyncWireResponse, family: Family) -> Any:
    upgraded = wire.content is None and hasattr(wire, "start_tls")
    return SyncNetworkStream(wire, family.name) if upgraded else wire
