"""Injected faults: shares of 0 and 100 % and headers, so that nothing is left to chance.

What a fault must not touch is here, too: retries, the route's timeout, header edits.
"""

from __future__ import annotations

from meshclient.model.matching import Fraction
from meshclient.model.retry import BackOff, RetryPolicy
from meshclient.model.routes import (
    Action,
    DirectResponse,
    Fault,
    ForwardAction,
    HeaderChange,
    HeaderOperations,
    RedirectAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .generate import UPSTREAMS, Draw, Plan, plain_clusters
from .traffic import Case, Pairs, Request, Step
from .upstream import Upstreams

#: How much earlier (timer granularity) and later (load) than expected is accepted.
_EARLY_S, _LATE_S = 0.02, 0.9

_ALWAYS, _NEVER = Fraction(100), Fraction(0)
_GRPC = (("content-type", "application/grpc"),)
#: Not 204: Envoy gives it a Content-Length, which no 204 may have.
_STATUSES = (200, 301, 400, 404, 418, 429, 499, 500, 502, 503, 504, 599)


class _Builder:
    def __init__(self, plan: Plan, draw: Draw) -> None:
        self.plan = plan
        self.draw = draw
        self.hosts: list[VirtualHost] = []

    def add(
        self,
        name: str,
        fault: Fault,
        headers: Pairs = (),
        *,
        expected_s: float = 0.0,
        action: Action | None = None,
        script: tuple[Step, ...] = (Step(),),
    ) -> None:
        """A virtual host of its own, and one case."""
        name = f"{name}-{len(self.hosts)}"
        target = action or ForwardAction((WeightedCluster(self.draw.one(UPSTREAMS)),))
        edits = HeaderOperations(changes=(HeaderChange("x-edited", "yes"),))
        route = Route(target, name=name, response_headers=edits, fault=fault)
        self.hosts.append(VirtualHost(name, (f"{name}.test",), (route,)))
        window = (expected_s - _EARLY_S, expected_s + _LATE_S)
        request = Request(f"{name}.test", "/", "GET", headers)
        self.plan.cases.append(Case(f"{name}/0", 0, request, script, window))


def build(seed: int, upstreams: Upstreams) -> Plan:
    """About 70 cases, of which a third wait for some tenths of a second."""
    plan = Plan(plain_clusters(upstreams))
    builder = _Builder(plan, Draw(seed, "faults"))
    _aborts(builder)
    _delays(builder)
    _both(builder)
    _by_header(builder)
    _with_the_rest_of_the_route(builder)
    plan.tables.append(RouteConfiguration("faults", tuple(builder.hosts), ignore_port=False))
    return plan


def _abort(status: int | None = None, grpc: int | None = None, share: Fraction = _ALWAYS) -> Fault:
    return Fault(abort_status=status, abort_grpc_status=grpc, abort_fraction=share)


def _aborts(b: _Builder) -> None:
    for status in _STATUSES:
        b.add("abort", _abort(status))
        b.add("abort-grpc-caller", _abort(status), _GRPC)
    for code in (0, 1, 5, 13, 14, 16):
        b.add("abort-code", _abort(grpc=code), _GRPC)
        b.add("abort-code-plain", _abort(grpc=code))
    b.add("abort-never", _abort(503, share=_NEVER))
    b.add("abort-all-of-a-million", _abort(503, share=Fraction(1_000_000, 1_000_000)))


def _delays(b: _Builder) -> None:
    for _ in range(4):
        delay_s = b.draw.number(10, 40) / 100
        b.add("delay", Fault(delay_s, _ALWAYS), expected_s=delay_s)
    b.add("delay-never", Fault(5.0, _NEVER))
    b.add("delay-grpc", Fault(0.1, _ALWAYS), _GRPC, expected_s=0.1)


def _both(b: _Builder) -> None:
    b.add("both", Fault(0.2, _ALWAYS, 503, None, _ALWAYS), expected_s=0.2)
    b.add("delay-only-drawn", Fault(0.2, _ALWAYS, 503, None, _NEVER), expected_s=0.2)
    b.add("abort-only-drawn", Fault(5.0, _NEVER, 418, None, _ALWAYS))


def _by_header(b: _Builder) -> None:
    free = Fault(delay_fraction=_ALWAYS, abort_fraction=_ALWAYS, by_header=True)
    delay, abort = "x-envoy-fault-delay-request", "x-envoy-fault-abort-request"
    grpc = "x-envoy-fault-abort-grpc-request"
    b.add("ask-nothing", free)
    b.add("ask-delay", free, ((delay, "150"),), expected_s=0.15)
    b.add("ask-both", free, ((delay, "150"), (abort, "503")), expected_s=0.15)
    b.add("ask-grpc", free, ((grpc, "9"), *_GRPC))
    b.add("ask-grpc-plain", free, ((grpc, "9"),))
    for value in ("404", "599", "200", "199", "600", "junk", ""):
        b.add("ask-abort", free, ((abort, value),))
    b.add("ask-delay-junk", free, ((delay, "soon"),))
    b.add("ask-delay-zero", free, ((delay, "0"),))
    none = ((abort, "503"), (f"{abort}-percentage", "0"))
    b.add("ask-lower", free, none)
    more = ((abort, "503"), (f"{abort}-percentage", "200"))
    b.add("ask-more", free, more)
    closed = Fault(delay_fraction=_NEVER, abort_fraction=_NEVER, by_header=True)
    b.add("ask-in-vain", closed, ((abort, "503"), (delay, "2000")))
    b.add("headers-do-not-count", _abort(418), ((abort, "503"),))


def _with_the_rest_of_the_route(b: _Builder) -> None:
    target = WeightedCluster(b.draw.one(UPSTREAMS))
    retry = RetryPolicy(frozenset({"5xx"}), 2, back_off=BackOff(0.001, 0.002))
    b.add("not-retried", _abort(503), action=ForwardAction((target,), retry=retry))
    b.add(
        "then-retried",
        Fault(0.1, _ALWAYS),
        action=ForwardAction((target,), retry=retry),
        script=(Step(503), Step()),
        expected_s=0.1,
    )
    # The route's time starts when the delay is over.
    b.add(
        "timeout-after",
        Fault(0.4, _ALWAYS),
        action=ForwardAction((target,), timeout_s=0.3),
        script=(Step(delay_s=0.1),),
        expected_s=0.5,
    )
    b.add("no-cluster", _abort(418), action=ForwardAction((WeightedCluster("gone"),)))
    b.add("direct", _abort(418), action=DirectResponse(200, b"direct"))
    b.add("direct-delayed", Fault(0.1, _ALWAYS), action=DirectResponse(200, b"x"), expected_s=0.1)
    b.add("redirect", Fault(0.1, _ALWAYS), action=RedirectAction(host="b.test"), expected_s=0.1)
