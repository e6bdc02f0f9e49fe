"""An outage at the end of a chain of three services that each retry twice: the load it gets.

Figures are requests at the failing bottom per request of a user, of seeded simulations in
simulated time; ``docs/storms.md`` has them for more rates.
"""

from __future__ import annotations

import pytest
from storm_world import amplification

from meshclient import Mesh
from meshclient.model.outcome import ResetReason
from meshclient.testing import FakeClock, request, run_call

RETRIES = {"attempts": 2, "on": [503, "reset"]}
SEEDS = (1, 2, 3)
#: Requests of users per second; what it takes at least for the bounds below.
RATE = 50.0


def test_without_any_bound_three_layers_make_27_of_one():
    """What the simulation shows where nothing is in the way: 3 x 3 x 3."""
    retries = {**RETRIES, "budget": "none"}
    assert amplification(retries, middleware=False, outage_s=5.0) == 27.0


def test_the_middleware_alone_leaves_the_retries_of_the_last_hop():
    retries = {**RETRIES, "budget": "none"}
    assert amplification(retries, middleware=True, outage_s=5.0) == 3.0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_default_budget_alone_keeps_the_load_below_1_75(seed):
    """In the first 10 s, when what the good times have put aside is spent, and later."""
    for outage_s in (10.0, 30.0):
        load = amplification(
            RETRIES, middleware=False, per_second=RATE, outage_s=outage_s, seed=seed
        )
        print(f"budget alone, {outage_s:g} s, seed {seed}: {load:.3f}")
        assert 1.0 < load <= 1.75


@pytest.mark.parametrize("seed", SEEDS)
def test_with_the_middleware_the_load_stays_below_1_2(seed):
    for outage_s in (10.0, 30.0):
        load = amplification(
            RETRIES, middleware=True, per_second=RATE, outage_s=outage_s, seed=seed
        )
        print(f"budget and middleware, {outage_s:g} s, seed {seed}: {load:.3f}")
        assert 1.0 < load <= 1.2


def test_a_longer_chain_is_no_worse_with_the_middleware():
    """Only the hop next to the failure repeats, however many there are above it."""
    short = amplification(RETRIES, middleware=True, per_second=RATE, hops=1)
    long = amplification(RETRIES, middleware=True, per_second=RATE, hops=6)
    assert long <= short * 1.1


def test_a_short_failure_is_still_retried_away():
    """The budget is there to be used: nobody sees a failure of one request in twenty."""
    service = {"endpoints": ["10.0.0.1:80", "10.0.0.2:80"], "retries": RETRIES}
    mesh = Mesh.from_documents([{"version": 1, "services": {"a": service}}])
    clock = FakeClock()
    with mesh:
        for number in range(2000):
            outcomes = [503, 200] if number % 20 == 0 else [200]
            played = run_call(mesh, request("GET", "http://a/"), outcomes, clock=clock)
            assert played.status == 200, number
            clock.advance(0.01)


def test_failed_connections_are_retried_without_a_permit():
    """Nothing reached a server: repeating adds no load, and half of the endpoints may be gone."""
    service = {
        "endpoints": ["10.0.0.1:80", "10.0.0.2:80"],
        "retries": {**RETRIES, "on": ["connect-failure", 503]},
    }
    mesh = Mesh.from_documents([{"version": 1, "services": {"a": service}}])
    clock = FakeClock()
    with mesh:
        for _ in range(500):
            outcomes = [ResetReason.CONNECTION_FAILURE, 200]
            played = run_call(mesh, request("GET", "http://a/"), outcomes, clock=clock)
            assert played.status == 200
        assert mesh._publisher.plane.clusters["a"].lane.limiter.active == 0
        refused = [
            run_call(mesh, request("GET", "http://a/"), [503, 503, 503], clock=clock).report.flags
            for _ in range(100)
        ]
    assert refused[0] == ("URX",)
    assert refused[-1] == ("UO",)
