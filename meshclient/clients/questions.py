"""Carries the questions of filters to the services that answer them: one unary gRPC call
over the mesh's own wire, for blocking drivers and for any event loop.

The service is a cluster of the mesh, so that its own policy holds (balancing, health, limits,
TLS, timeouts of connections); the filters of routes do not, so that no question leads to
another. What an answer means is the filter's business. Source: gRPC over HTTP/2
(PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from meshclient import errors
from meshclient.call import Call
from meshclient.clients import http_common as common
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.request import RequestHead
from meshclient.resilience.question import GrpcAnswer, GrpcQuestion
from meshclient.transport.interface import Headers, WireError, WireRequest

if TYPE_CHECKING:
    from ssl import SSLContext

    from meshclient.attempt import Attempt
    from meshclient.clients.runtime import Runtime
    from meshclient.plane import Plane

#: Most bytes of an answer's body.
MAX_ANSWER: Final = 64 * 1024

#: Threads that a mesh has at most for each :class:`Asking`, and questions that wait for one.
MAX_ASKERS: Final = 32
MAX_WAITING: Final = 1000

_CANNOT: Final = GrpcAnswer(None, "this client cannot ask it")
_OK = 0
_NO_STATUS = -1


def ask(runtime: Runtime, call: Call) -> GrpcAnswer:
    """Ask what ``call.hold`` wants to know, on this thread.

    Over within the question's timeout, and no later than the caller gives up. Failures are
    answers; raises only what cancels the thread.
    """
    return _ask(runtime, call.hold.ask, call.give_up_at)  # type: ignore[union-attr]


class Asking:
    """A question that a thread of the mesh carries, for drivers that neither block nor run a
    loop: look for the ``answer``, None for the time being, every ``look_s`` seconds."""

    __slots__ = ("answer",)

    look_s: Final = 0.001

    def __init__(self, runtime: Runtime, call: Call) -> None:
        self.answer: GrpcAnswer | None = None
        question: GrpcQuestion = call.hold.ask  # type: ignore[union-attr]
        # The wait for a thread counts, too.
        give_up_at = runtime.clock() + question.timeout_s
        if call.give_up_at is not None:
            give_up_at = min(give_up_at, call.give_up_at)

        def run() -> None:
            answer = GrpcAnswer(None, "asking broke off")
            try:
                answer = _ask(runtime, question, give_up_at)
            finally:
                self.answer = answer

        if not runtime.askers.submit(run):
            self.answer = GrpcAnswer(None, "too many questions at a time")


def _ask(runtime: Runtime, question: GrpcQuestion, give_up_at: float | None) -> GrpcAnswer:
    asked = _Asked(runtime, question, give_up_at)
    if asked.answer is not None or runtime.engines is None:
        return asked.answer or _CANNOT
    wire: Any = None
    try:
        wire = runtime.engines.get("sync", http2=True).send(asked.target, asked.request)
        asked.read_head(wire)
        for chunk in wire:
            asked.read(chunk)
        return asked.end(wire.get_extra_info("trailers"))
    except Exception as error:
        return asked.fail(error)
    finally:
        if wire is not None:
            wire.close()
        asked.close()


async def ask_async(runtime: Runtime, call: Call) -> GrpcAnswer:
    """:func:`ask` on the running event loop, which goes on meanwhile."""
    question: GrpcQuestion = call.hold.ask  # type: ignore[union-attr]
    asked = _Asked(runtime, question, call.give_up_at)
    if asked.answer is not None or runtime.engines is None:
        return asked.answer or _CANNOT
    wire: Any = None
    try:
        wire = await runtime.engines.get("async", http2=True).send(asked.target, asked.request)
        asked.read_head(wire)
        async for chunk in wire:
            asked.read(chunk)
        return asked.end(wire.get_extra_info("trailers"))
    except Exception as error:
        return asked.fail(error)
    finally:
        try:
            if wire is not None:
                await wire.aclose()
        finally:
            asked.close()


class _ClusterCall(Call):
    """A call straight to a cluster: no route, no filters, one try."""

    __slots__ = ("_to",)

    def __init__(self, to: str, plane: Plane, head: RequestHead, now: float, rand: Any) -> None:
        self._to = to
        super().__init__(plane, head, now, rand)

    def _decide_route(self, strategies: Any, dry: bool) -> None:  # noqa: ARG002
        cluster = self.plane.clusters.get(self._to)
        if cluster is None:
            self.error = errors.UnknownCluster(f"no service is named {self._to}", self.report)
            return
        self.cluster, self.lane = cluster, cluster.lane
        if cluster.refusal:
            self.error = errors.SecurityError(cluster.refusal, self.report)


class _Asked:
    """One question under way. ``answer`` is there at once when it cannot be asked."""

    __slots__ = (
        "_attempt", "_body", "_call", "_clock", "_head", "_settled", "_status",
        "answer", "request", "target",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, question: GrpcQuestion, give_up_at: float | None) -> None:
        self.answer: GrpcAnswer | None = None
        self._clock = runtime.clock
        self._body = b""
        self._head: Headers = []
        self._status = 0
        self._settled = False
        self._attempt: Attempt | None = None
        if not isinstance(question, GrpcQuestion) or runtime.engines is None:
            self.answer = _CANNOT
            return
        now = self._clock()
        timeout_s = question.timeout_s
        if give_up_at is not None:
            timeout_s = min(timeout_s, max(0.0, give_up_at - now))
        headers = _headers(question, timeout_s)
        path = question.path.decode("latin-1")
        head = RequestHead("POST", "http", question.cluster, 0, path, HeaderMap(headers))
        try:
            plane = runtime.current()
            self._call = _ClusterCall(question.cluster, plane, head, now, runtime.rand)
            self._attempt = self._call.next_attempt(now)
            self.target = _targets(runtime).of(self._call, self._attempt, None)
        except errors.MeshError as error:
            self.close()
            self.answer = GrpcAnswer(None, str(error))
            return
        self.request = WireRequest(
            b"POST",
            question.path,
            headers,
            struct.pack(">BI", 0, len(question.message)) + question.message,
            connect_timeout_s=min(timeout_s, self._attempt.connection.connect_timeout_s),
            deadline=now + timeout_s,
            # At worst the call counts twice, which is better than not at all.
            resend=lambda: True,
        )

    def read_head(self, wire: Any) -> None:
        """Status and headers of the answer."""
        self._status, self._head = wire.status, wire.headers

    def read(self, chunk: bytes) -> None:
        """A part of its body. Raises ValueError for too much."""
        self._body += chunk
        if len(self._body) > MAX_ANSWER:
            raise ValueError(f"an answer of more than {MAX_ANSWER} bytes")

    def end(self, trailers: Headers | None) -> GrpcAnswer:
        """The whole answer is there. ``trailers`` None: this wire does not show them."""
        code = _grpc_status(trailers or [])
        if code == _NO_STATUS and not self._body:
            code = _grpc_status(self._head)
        elif trailers is None:
            # A server that fails sends no message: a whole one says as much as the status.
            code = _OK
        self._settle(Outcome(self._status, HeaderMap(self._head), grpc_status=code))
        if code != _OK or self._status != 200:
            what = f"HTTP status {self._status} without a gRPC status"
            return GrpcAnswer(None, what if code == _NO_STATUS else f"gRPC status {code}")
        return GrpcAnswer(_only_message(self._body))

    def fail(self, error: Exception) -> GrpcAnswer:
        """It broke off; ``error`` says how."""
        if isinstance(error, WireError):
            self._settle(Outcome(reset=error.reason, sent=error.sent, error=error))
            text = "no answer in time" if error.timeout else str(error)
            return GrpcAnswer(None, text or error.reason.value)
        if not isinstance(error, (ValueError, errors.MeshError)):
            text = f"{type(error).__name__}: {error}"
        else:
            text = str(error)
        self._settle(Outcome(reset=ResetReason.PROTOCOL_ERROR, sent=True, error=error))
        return GrpcAnswer(None, text)

    def _settle(self, outcome: Outcome) -> None:
        if not self._settled and self._attempt is not None:
            self._settled = True
            self._call.settle(self._attempt, outcome, self._clock())

    def close(self) -> None:
        """Count the try out. Idempotent."""
        if self._attempt is not None:
            self._attempt.close(self._clock())


def _headers(question: GrpcQuestion, timeout_s: float) -> Headers:
    return [
        (b"host", question.cluster.encode("latin-1")),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"%dm" % max(1, round(timeout_s * 1000))),
        (b"content-type", b"application/grpc"),
    ]


def _targets(runtime: Runtime) -> common.Targets:
    found = runtime.asked_targets
    if found is None:
        found = runtime.asked_targets = common.Targets(_no_context)
    return found


def _no_context() -> SSLContext:
    raise AssertionError("questions are dialled without TLS; the policy adds its own")


def _grpc_status(headers: Headers) -> int:
    for name, value in headers:
        if name.lower() == b"grpc-status":
            return int(value) if value.isdigit() and len(value) < 10 else 2
    return _NO_STATUS


def _only_message(body: bytes) -> bytes:
    """The message of a unary answer. Raises ValueError for anything else."""
    if len(body) < 5:
        raise ValueError("half a gRPC frame")
    compressed, size = struct.unpack_from(">BI", body)
    if compressed or len(body) != 5 + size:
        raise ValueError("not one uncompressed gRPC message")
    return body[5:]


__all__ = ["MAX_ANSWER", "MAX_ASKERS", "MAX_WAITING", "Asking", "ask", "ask_async"]
