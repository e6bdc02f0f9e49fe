"""Which calls are copied, what a copy looks like, and what it counts for."""

from __future__ import annotations

import pytest
from core_support import BROKEN, cluster, counts, head, host_of, plane_of, reset, sent, status, to
from hypothesis import given
from hypothesis import strategies as st

from meshclient import errors
from meshclient.call import Call
from meshclient.mirror_call import LONGEST_S, MirrorCall
from meshclient.model.cluster import ClusterPolicy, Limits, LoadBalancing, TlsSettings
from meshclient.model.matching import Fraction
from meshclient.model.routes import (
    DirectResponse,
    HeaderChange,
    HeaderOperations,
    HostRewrite,
    Mirror,
    PathRewrite,
    Route,
)


def copies(action, request=None, random64=0):
    plane = plane_of(action, cluster(), cluster("m"), cluster("n"))
    call = Call(plane, request or head(), 0.0, lambda: random64)
    return () if call.hedge is None else call.hedge.copies


def names(action, random64=0):
    return [mirror.cluster for mirror, _ in copies(action, random64=random64)]


def test_routes_without_mirrors_make_no_copies():
    assert copies(to()) == ()
    assert copies(DirectResponse(200)) == ()
    assert copies(to(mirrors=(Mirror("m", Fraction(0)),))) == ()
    assert copies(to(mirrors=(Mirror("m"),)), head(method="CONNECT")) == ()


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.integers(0, 100), st.sampled_from([100, 10_000, 1_000_000])), max_size=3),
)
def test_all_mirrors_of_a_call_draw_with_one_number(random64, shares):
    """Property: Envoy's own test of the fraction, with the number that routes were chosen by."""
    mirrors = tuple(Mirror("m", Fraction(*share)) for share in shares)
    expected = [m for m in mirrors if random64 % m.fraction.denominator < m.fraction.numerator]
    assert [mirror for mirror, _ in copies(to(mirrors=mirrors), random64=random64)] == expected


def test_several_mirrors_with_several_shares():
    action = to(mirrors=(Mirror("m", Fraction(10)), Mirror("n", Fraction(50))))
    assert [names(action, draw) for draw in (5, 20, 70)] == [["m", "n"], ["n"], []]


def test_a_copy_is_the_request_as_it_is_sent_on():
    edits = HeaderOperations(("x-gone",), (HeaderChange("x-new", "1"),))
    action = to(
        mirrors=(Mirror("m"),),
        path_rewrite=PathRewrite("full", "/new"),
        host_rewrite=HostRewrite("literal", "b.test"),
    )
    host = host_of(Route(action, request_headers=edits), include_attempt_count=True)
    request = head("/old", [("x-gone", "1"), ("x-envoy-max-retries", "3")])
    ((_, copy),) = copies(host, request)
    assert (copy.method, copy.path, copy.authority) == ("GET", "/new", "b.test")
    found = sent(copy.headers.raw)
    assert (found["host"], found["x-new"], found["x-envoy-attempt-count"]) == ("b.test", "1", "1")
    assert not {"x-gone", "x-envoy-max-retries"} & found.keys()
    copy.headers.set("x-own", "1")
    assert "x-own" not in request.headers, "a copy is apart from the original"


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("a.test", "a.test-shadow"),
        ("a.test:8080", "a.test-shadow:8080"),
    ],
)
def test_the_shadow_suffix_only_where_it_is_asked_for(authority, expected):
    host = host_of(to(mirrors=(Mirror("m"), Mirror("m", host_suffix=True))))
    plain, suffixed = (copy for _, copy in copies(host, head(host=authority)))
    assert (plain.authority, suffixed.authority) == (authority, expected)
    assert sent(suffixed.headers.raw)["host"] == expected


# -- the call that carries it


def mirror_call(*, timeout_s=None, now=0.0, name="m", **policy):
    made = ClusterPolicy(LoadBalancing("round_robin"), **policy)
    plane = plane_of(to(), cluster(), cluster("m", policy=made))
    return plane, MirrorCall(plane, name, head(), now, lambda: 0, timeout_s)


def test_a_copy_has_one_try_within_the_routes_timeout():
    plane, call = mirror_call(timeout_s=2.0, now=10.0)
    attempt = call.next_attempt(10.0)
    assert (attempt.cluster, attempt.deadline) == ("m", 12.0)
    assert sent(attempt.headers)["x-envoy-expected-rq-timeout-ms"] == "2000"
    assert call.settle(attempt, status(503), 10.5) is None, "an answer is an answer"
    attempt.close(10.5)
    assert counts(plane) == 0


def test_without_a_timeout_it_does_not_live_for_ever():
    _, call = mirror_call(now=1.0)
    attempt = call.next_attempt(1.0)
    assert attempt.deadline == 1.0 + LONGEST_S
    assert "x-envoy-expected-rq-timeout-ms" not in sent(attempt.headers)
    attempt.close(1.0)


def test_a_copy_that_breaks_is_not_repeated():
    plane, call = mirror_call()
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, reset(BROKEN), 0.1) is None
    assert isinstance(call.error, errors.UpstreamReset)
    attempt.close(0.1)
    assert counts(plane) == 0


def test_the_mirrors_own_limits_and_health_hold():
    plane, call = mirror_call(limits=Limits(max_requests=0))
    with pytest.raises(errors.Overflow):
        call.next_attempt(0.0)
    assert counts(plane) == 0
    seen = []
    plane, call = mirror_call()
    plane.clusters["m"].on_outcome = lambda state, outcome, *_: seen.append(outcome.status)
    attempt = call.next_attempt(0.0)
    call.settle(attempt, status(500), 0.1)
    attempt.close(0.1)
    assert seen == [500]


def test_what_cannot_be_reached_safely_is_refused():
    _, call = mirror_call(name="gone")
    with pytest.raises(errors.UnknownCluster, match="'gone', which does not exist"):
        call.next_attempt(0.0)
    _, call = mirror_call(tls=TlsSettings("mutual"))
    with pytest.raises(errors.SecurityError):
        call.next_attempt(0.0)
    assert call.cluster_name == "m"
