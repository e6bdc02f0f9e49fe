"""What a call hashes, when, and what its response then carries."""

from __future__ import annotations

import pytest
from core_support import (
    BROKEN,
    RETRY,
    call_of,
    cluster,
    head,
    host_of,
    plane_of,
    reset,
    seed,
    status,
    to,
)

from meshclient import errors
from meshclient.model.cluster import ClusterPolicy, LoadBalancing
from meshclient.model.load_balancing import StatefulSession
from meshclient.model.routes import HashPolicy, HeaderChange, HeaderOperations, Route
from meshclient.plane import build_plane, forked_plane

RING = ClusterPolicy(LoadBalancing("ring_hash"))
COOKIE = HashPolicy("cookie", "who", ttl_s=60.0, path="/")


def picked(plane, request, **options):
    call = call_of(plane, request, **options)
    attempt = call.next_attempt(0.0)
    call.settle(attempt, status(200), 0.0)
    attempt.close(0.0)
    return call, attempt


def by_header(**options):
    action = to(hash_policy=(HashPolicy("header", "x-user"),))
    return plane_of(host_of(Route(action, **options)), cluster(count=5, policy=RING))


def test_equal_headers_go_to_one_endpoint_and_others_elsewhere():
    plane = by_header()
    chosen = {
        user: {picked(plane, head(headers=[("x-user", user)]))[1].endpoint for _ in range(3)}
        for user in map(str, range(20))
    }
    assert all(len(endpoints) == 1 for endpoints in chosen.values())
    assert len(set.union(*chosen.values())) == 5


def test_what_the_route_adds_is_hashed():
    edits = HeaderOperations(changes=(HeaderChange("x-user", "one", "overwrite"),))
    plane = by_header(request_headers=edits)
    endpoints = {picked(plane, head(headers=[("x-user", str(n))]))[1].endpoint for n in range(20)}
    assert len(endpoints) == 1


def test_a_cookie_is_made_once_and_given_to_the_caller():
    plane = plane_of(to(hash_policy=(COOKIE,), retry=RETRY), cluster(count=5, policy=RING))
    call = call_of(plane)
    first = call.next_attempt(0.0)
    call.settle(first, reset(BROKEN), 0.0)
    made = call.hash64
    second = call.next_attempt(0.1)
    call.settle(second, status(200), 0.1)
    assert call.hash64 == made
    ((name, value),) = call.added_response_headers(second)
    assert name == b"set-cookie"
    assert value.startswith(b'who="')
    assert value.endswith(b"Max-Age=60; Path=/; HttpOnly")
    kept = value.partition(b";")[0].replace(b'"', b"").decode()
    again, attempt = picked(plane, head(headers=[("cookie", kept)]))
    assert again.hash64 == made
    assert attempt.endpoint == first.endpoint
    assert again.added_response_headers(attempt) is None


def test_the_callers_own_address_is_hashed_and_survives_a_fork():
    action = to(hash_policy=(HashPolicy("source_ip"),))
    plane = plane_of(action, cluster(count=5, policy=RING))
    assert plane.hashes_source
    plane.source_ip = "10.1.2.3"
    here = {picked(plane, head())[1].endpoint for _ in range(10)}
    child = forked_plane(plane, seed)
    assert here == {picked(child, head())[1].endpoint}
    assert not build_plane(plane_of(to()).snapshot, None, seed).hashes_source


def test_the_callers_context_is_hashed():
    action = to(hash_policy=(HashPolicy("context", "tenant"),))
    plane = plane_of(action, cluster(count=5, policy=RING))
    one = {picked(plane, head(), context={"tenant": "a"})[1].endpoint for _ in range(5)}
    assert len(one) == 1


def session_plane(**options):
    session = StatefulSession("cookie", "sticky", path="/", **options)
    policy = ClusterPolicy(LoadBalancing("round_robin", session=session))
    return plane_of(to(retry=RETRY), cluster(count=3, policy=policy))


def cookie_of(call, attempt):
    ((name, value),) = call.added_response_headers(attempt)
    assert name == b"set-cookie"
    return value.partition(b";")[0].replace(b'"', b"").decode()


def test_a_session_stays_with_its_endpoint():
    plane = session_plane()
    call, attempt = picked(plane, head())
    cookie = cookie_of(call, attempt)
    for _ in range(5):
        call, again = picked(plane, head(headers=[("cookie", cookie)]))
        assert again.endpoint == attempt.endpoint
        assert call.added_response_headers(again) is None


def test_a_retry_of_a_session_goes_elsewhere_and_moves_the_session():
    plane = session_plane()
    call, attempt = picked(plane, head())
    moved = call_of(plane, head(headers=[("cookie", cookie_of(call, attempt))]))
    first = moved.next_attempt(0.0)
    moved.settle(first, reset(BROKEN), 0.0)
    second = moved.next_attempt(0.1)
    moved.settle(second, status(200), 0.1)
    assert (first.endpoint, second.endpoint == first.endpoint) == (attempt.endpoint, False)
    assert cookie_of(moved, second) != cookie_of(call, attempt)


def test_a_strict_session_whose_endpoint_is_gone_ends_the_call():
    plane = session_plane(strict=True)
    call, attempt = picked(plane, head())
    attempt.state.flags |= 1
    lost = call_of(plane, head(headers=[("cookie", cookie_of(call, attempt))]))
    with pytest.raises(errors.NoHealthyEndpoint) as caught:
        lost.next_attempt(0.0)
    assert caught.value.flag == "UH"
