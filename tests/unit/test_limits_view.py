"""What a dump says of limits: counts, and Envoy's gauges."""

from __future__ import annotations

import pytest

import meshclient
from meshclient.call import Call
from meshclient.limits_view import limit_rows
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome
from meshclient.model.request import head_of
from meshclient.testing import ScriptedRandom


def mesh_of(**service: object) -> meshclient.Mesh:
    services = {"a": {"endpoints": ["127.0.0.1:9"], **service}}
    return meshclient.Mesh.from_documents([{"version": 1, "services": services}])


def test_without_limits_there_is_nothing_to_see() -> None:
    with mesh_of() as mesh:
        assert mesh.dump()["circuit_breakers"] == {}


def test_counts_and_gauges_follow_the_calls() -> None:
    limits = {"max_requests": 1, "max_retries": 1, "high_priority": {"max_requests": 2}}
    with mesh_of(limits=limits, retries={"on": ["5xx"]}) as mesh:
        plane = mesh._publisher.plane
        call = Call(plane, head_of("GET", "http://a/", None), 0.0, ScriptedRandom(seed=1))
        assert mesh.dump()["circuit_breakers"]["a"] == {
            "default": {
                "cx_open": 0,
                "rq_pending_open": 0,
                "rq_active": 0,
                "rq_open": 0,
                "rq_retry": 0,
                "rq_retry_open": 0,
            },
            "high": {
                "cx_open": 0,
                "rq_pending_open": 0,
                "rq_active": 0,
                "rq_open": 0,
                "rq_retry": 0,
                "rq_retry_open": 0,
            },
        }
        attempt = call.next_attempt(0.0)
        row = limit_rows(plane.clusters)["a"]["default"]
        assert (row["rq_active"], row["rq_open"], row["rq_retry_open"]) == (1, 1, 0)
        assert call.settle(attempt, Outcome(503, HeaderMap.of([])), 0.0) is not None
        attempt.close(0.0)
        row = limit_rows(plane.clusters)["a"]["default"]
        assert (row["rq_active"], row["rq_open"]) == (0, 0)
        assert (row["rq_retry"], row["rq_retry_open"]) == (1, 1)
        call.abandon(0.0)


@pytest.mark.parametrize(
    "budget", [{"ttl": "10s", "min_per_second": 0}, {"min_retry_rate": {"count": 0}}]
)
def test_budgets_have_a_gauge_too(budget: dict[str, object]) -> None:
    with mesh_of(retries={"budget": budget}) as mesh:
        rows = mesh.dump()["circuit_breakers"]["a"]
        assert [rows[lane]["rq_retry_open"] for lane in ("default", "high")] == [1, 1]
