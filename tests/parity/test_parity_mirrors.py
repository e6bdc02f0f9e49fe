"""Copies of requests: the same ones, with the same headers, as the real Envoy sends."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from meshclient.model.matching import Fraction
from meshclient.model.retry import BackOff, RetryPolicy
from meshclient.model.routes import (
    ForwardAction,
    HeaderChange,
    HeaderOperations,
    HostRewrite,
    Mirror,
    PathRewrite,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .compare import _REQUEST_IGNORED, _headers_differ
from .envoy import Envoy, EnvoyClient
from .generate import UPSTREAMS, plain_clusters
from .ours import Ours
from .traffic import Exchange, Received, Request, Step
from .upstream import Upstreams

_TO, _OTHER, _THIRD = UPSTREAMS[:3]
_ALL, _NONE = Fraction(100), Fraction(0)
_RETRY = RetryPolicy(frozenset({"5xx"}), 2, back_off=BackOff(0.001, 0.002))
_EDITS = HeaderOperations(
    remove=("x-gone",), changes=(HeaderChange("x-path", "%REQ(:path)%", "overwrite"),)
)


def _route(*mirrors: Mirror, edits: HeaderOperations | None = None, **more: object) -> Route:
    action = ForwardAction((WeightedCluster(_TO),), mirrors=mirrors, **more)  # type: ignore[arg-type]
    return Route(action) if edits is None else Route(action, request_headers=edits)


_REWRITTEN = {
    "host_rewrite": HostRewrite("literal", "new.test"),
    "path_rewrite": PathRewrite("prefix", "/v2/"),
}
ROUTES = {
    "one": _route(Mirror(_OTHER)),
    "two": _route(Mirror(_OTHER), Mirror(_THIRD, _ALL)),
    "none": _route(Mirror(_OTHER, _NONE)),
    "one-of-two": _route(Mirror(_OTHER, _NONE), Mirror(_THIRD)),
    "millions": _route(Mirror(_OTHER, Fraction(1_000_000, 1_000_000)), Mirror(_THIRD, _NONE)),
    "suffix": _route(Mirror(_OTHER, host_suffix=True)),
    "edited": _route(Mirror(_OTHER), edits=_EDITS),
    "rewritten": _route(Mirror(_OTHER), **_REWRITTEN),
    "rewritten-suffix": _route(Mirror(_OTHER, host_suffix=True), **_REWRITTEN),
    "timed": _route(Mirror(_OTHER), timeout_s=4.0),
    "timed-per-try": _route(
        Mirror(_OTHER), timeout_s=4.0, retry=RetryPolicy(frozenset({"5xx"}), 1, 2.0)
    ),
    "retried": _route(Mirror(_OTHER), retry=_RETRY),
    "same-cluster": _route(Mirror(_TO)),
}
REQUESTS = (
    Request("", "/a?b=c", "GET", (("x-gone", "1"), ("x-keep", "2"))),
    Request("", "/p", "POST", (), b"body"),
)
#: The real answer waits, so that the copies have arrived by then.
_PATIENT = (Step(delay_s=0.1),)
_FAILING = (Step(503, delay_s=0.1),)
#: A copy has its own line of what a proxy in the path adds.
_IGNORED = _REQUEST_IGNORED | {"x-forwarded-for"}


def _hosts() -> tuple[VirtualHost, ...]:
    return tuple(
        VirtualHost(name, (f"{name}.test",), (route,), include_attempt_count=name.startswith("t"))
        for name, route in ROUTES.items()
    )


def test_the_same_copies_arrive_as_from_envoy() -> None:
    table = RouteConfiguration("mirrors", _hosts(), ignore_port=False)
    with Upstreams(UPSTREAMS) as upstreams:
        clusters = plain_clusters(upstreams)
        with Envoy([table], clusters) as envoy, Ours([table], clusters) as ours:
            client = EnvoyClient(envoy.ports)
            try:
                found = list(_differences(upstreams, client, ours))
            finally:
                client.close()
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def _differences(upstreams: Upstreams, client: EnvoyClient, ours: Ours) -> Iterable[str]:
    copies = 0
    for name in ROUTES:
        script = _FAILING if name == "retried" else _PATIENT
        for number, shape in enumerate(REQUESTS):
            request = Request(f"{name}.test", shape.path, shape.method, shape.headers, shape.body)
            case = f"{name}/{number}"
            key = upstreams.prepare("envoy", case, script)
            theirs = client.send(0, request, key)
            theirs.attempts = upstreams.take("envoy", case)
            own = ours.send(0, request, upstreams.prepare("ours", case, script))
            own.attempts = upstreams.take("ours", case)
            yield from (f"{case}: {text}" for text in _compare(theirs, own))
            copies += len(theirs.attempts) - 1
    assert copies >= 20, "Envoy did send copies"


def _compare(theirs: Exchange, ours: Exchange) -> Iterable[str]:
    if (theirs.status, theirs.body) != (ours.status, ours.body) or ours.error:
        yield f"Envoy answered {theirs.status}, ours {ours.status} {ours.error}"
    left, right = sorted(theirs.attempts, key=_order), sorted(ours.attempts, key=_order)
    if [_order(one) for one in left] != [_order(one) for one in right]:
        yield f"Envoy sent {list(map(_order, left))}, ours {list(map(_order, right))}"
        return
    for a, b in zip(left, right, strict=True):
        yield from _headers_differ(f"at {a.upstream}", a.headers, b.headers, _IGNORED)


def _order(received: Received) -> tuple[str, str, str, bytes, str]:
    count = dict(received.headers).get("x-envoy-attempt-count", "")
    return received.upstream, received.method, received.path, received.body, count
