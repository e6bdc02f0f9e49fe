"""Budgets that a service's calls share: subsets, priorities, reloads, and what pays."""

from __future__ import annotations

from dataclasses import replace

from core_support import (
    BROKEN,
    RETRY,
    call_of,
    cluster,
    counts,
    head,
    host_of,
    plane_of,
    reset,
    seed,
    snapshot_of,
    status,
    to,
)

from meshclient.model.cluster import ClusterPolicy, Limits
from meshclient.model.matching import PathMatch, RouteMatch
from meshclient.model.retry import RateBudget, RetryBudget, TokenBudget
from meshclient.model.routes import Route
from meshclient.plane import build_plane, forked_plane

TOKENS = TokenBudget(10.0, 0.5, 0)


def policy(budget=TOKENS, **limits):
    both = Limits(retry_budget=budget, **limits)
    return ClusterPolicy(limits=both, high_priority_limits=both)


def subsets(one, other):
    whole = cluster("a", policy=one)
    return whole, replace(cluster("a/v2", policy=other), service="a", subset="v2")


def limiter_of(plane, name="a"):
    return plane.clusters[name].lane.limiter


def test_subsets_and_priorities_of_a_service_share_one_budget():
    plane = plane_of(to(), *subsets(policy(), policy(max_requests=5)))
    one, other = plane.clusters["a"], plane.clusters["a/v2"]
    assert one.lane.limiter is one.high.limiter is other.lane.limiter is other.high.limiter


def test_envoys_budget_belongs_to_cluster_and_priority():
    plane = plane_of(to(), *subsets(policy(RetryBudget()), policy(RetryBudget())))
    one, other = plane.clusters["a"], plane.clusters["a/v2"]
    assert len({id(x) for x in (one.lane.limiter, one.high.limiter, other.lane.limiter)}) == 3


def test_other_services_have_budgets_of_their_own():
    plane = plane_of(to(), cluster("a", policy=policy()), cluster("b", policy=policy()))
    assert limiter_of(plane) is not limiter_of(plane, "b")


def test_the_balance_survives_a_reload_and_not_a_fork():
    """Also that of a subset whose other limits change."""
    before = plane_of(to(), *subsets(policy(), policy(max_requests=5)))
    after = snapshot_of(to(), *subsets(policy(), policy(max_requests=6)))
    reloaded = build_plane(after, before, seed)
    assert limiter_of(reloaded) is limiter_of(before)
    assert limiter_of(reloaded, "a/v2") is limiter_of(before)
    child = forked_plane(reloaded, seed)
    assert limiter_of(child) is not limiter_of(before)
    assert limiter_of(child) is limiter_of(child, "a/v2")


def test_another_budget_begins_anew():
    before = plane_of(to(), cluster("a", policy=policy()))
    after = snapshot_of(to(), cluster("a", policy=policy(TokenBudget(10.0, 0.2, 0))))
    assert limiter_of(build_plane(after, before, seed)) is not limiter_of(before)


def answered(plane, *outcomes):
    """One call, try by try; how many tries it had."""
    call = call_of(plane)
    for outcome in outcomes:
        attempt = call.next_attempt(0.0)
        delay_s = call.settle(attempt, outcome, 0.0)
        attempt.close(0.0)
        if delay_s is None:
            break
    call.abandon(0.0)
    return len(call.attempts)


def test_two_answers_pay_for_one_retry():
    plane = plane_of(to(retry=RETRY), cluster("a", policy=policy()))
    assert answered(plane, status(503), status(200)) == 1, "nothing is paid in yet"
    assert answered(plane, status(200)) == 1
    assert answered(plane, status(503), status(200)) == 1
    assert answered(plane, status(404)) == 1
    assert answered(plane, status(503), status(503), status(200)) == 2
    assert counts(plane) == 0


def test_what_may_not_be_repeated_pays_and_what_was_refused_does_not():
    """As in linkerd2-proxy: a failure that is not to be retried deposits."""
    plane = plane_of(to(), cluster("a", policy=policy()))
    answered(plane, reset(BROKEN))
    answered(plane, status(503))
    assert limiter_of(plane).limit(0, 0.0) == 1
    plane = plane_of(to(retry=RETRY), cluster("a", policy=policy()))
    for _ in range(6):
        answered(plane, status(503))
    assert limiter_of(plane).limit(0, 0.0) == 0


def test_a_share_of_the_requests_counts_calls_once():
    budget = RateBudget(50.0, 10.0, 0, 1.0)
    plane = plane_of(to(retry=RETRY), cluster("a", policy=policy(budget)))
    assert answered(plane, status(503), status(503), status(200)) == 2
    assert answered(plane, status(200)) == 1
    assert answered(plane, status(503), status(503), status(503)) == 3
    assert counts(plane) == 0


def test_a_refused_retry_says_so():
    plane = plane_of(host_of(Route(to(retry=RETRY))), cluster("a", policy=policy()))
    call = call_of(plane)
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, status(503), 0.0) is None
    attempt.close(0.0)
    assert call.flags == ("UO",)


def test_envoys_budget_is_a_share_of_the_requests_of_its_own_priority():
    """Half of what is in flight may be retries; the other priority's calls do not count."""
    budget = RetryBudget(percent=50.0, min_concurrency=0)
    hosts = host_of(
        Route(to(retry=RETRY, priority="high"), RouteMatch(path=PathMatch("prefix", "/high"))),
        Route(to(retry=RETRY)),
    )
    plane = plane_of(hosts, cluster("a", policy=policy(budget)))

    def begin(path):
        call = call_of(plane, head(path))
        return call, call.next_attempt(0.0)

    def may_retry(path):
        call, attempt = begin(path)
        delay_s = call.settle(attempt, status(503), 0.0)
        attempt.close(0.0)
        call.abandon(0.0)
        return delay_s is not None

    others = [begin("/")[0] for _ in range(4)]
    assert may_retry("/")
    assert not may_retry("/high"), "one of its own is in flight"
    others.append(begin("/high")[0])
    assert may_retry("/high")
    for call in others[:4]:
        call.abandon(0.0)
    assert not may_retry("/")
    others[4].abandon(0.0)
    assert counts(plane) == 0
    assert plane.clusters["a"].high.requests.active == 0
