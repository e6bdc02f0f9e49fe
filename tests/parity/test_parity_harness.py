"""The harness itself: it sees differences, and a seed is a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshclient.model.hedging import Comparison, Hedging
from meshclient.model.retry import RetryPolicy
from meshclient.model.routes import ForwardAction, Mirror, WeightedCluster

from . import (
    generate_matches,
    generate_retries,
    generate_rewrites,
    generate_timeouts,
    to_envoy_routes,
)
from .compare import compact, differences_of
from .generate import UPSTREAMS, Plan
from .traffic import Case, Exchange, Received, Request
from .upstream import Upstreams

_CASE = Case("c/0", 0, Request("c.test"))
_SPREAD = Case("c/0", 0, Request("c.test"), spread=True)
_WINDOW = Case("c/0", 0, Request("c.test"), window_s=(0.1, 0.2))


def _received(upstream: str = "u0", path: str = "/", *headers: tuple[str, str]) -> Received:
    return Received(upstream, "GET", path, headers, b"")


def _exchange(*attempts: Received, status: int = 200, body: bytes = b"", took: float = 0.15,
              headers: tuple[tuple[str, str], ...] = (), error: str = "") -> Exchange:  # fmt: skip
    return Exchange(status, headers, body, took, list(attempts), error)


@pytest.mark.parametrize(
    ("case", "theirs", "ours", "expected"),
    [
        (_CASE, _exchange(), _exchange(status=503), "status"),
        (_CASE, _exchange(body=b"a"), _exchange(body=b"b"), "response body"),
        (_CASE, _exchange(headers=(("x-a", "1"),)), _exchange(), "response header x-a"),
        (_CASE, _exchange(_received()), _exchange(), "attempts per upstream"),
        (_CASE, _exchange(_received("u0")), _exchange(_received("u1")), "attempts per upstream"),
        (_CASE, _exchange(_received()), _exchange(_received(path="/x")), "attempt 1 path"),
        (
            _CASE,
            _exchange(_received("u0", "/", ("x-a", "1"), ("x-a", "2"))),
            _exchange(_received("u0", "/", ("x-a", "2"), ("x-a", "1"))),
            "attempt 1 header x-a",
        ),
        (
            _CASE,
            _exchange(_received("u0", "/", ("x-envoy-expected-rq-timeout-ms", "1000"))),
            _exchange(_received("u0", "/", ("x-envoy-expected-rq-timeout-ms", "15000"))),
            "attempt 1 header x-envoy-expected-rq-timeout-ms",
        ),
        (_SPREAD, _exchange(_received()), _exchange(_received(), _received()), "attempts per"),
        (_WINDOW, _exchange(), _exchange(took=0.3), "ours took"),
        (_WINDOW, _exchange(took=0.01), _exchange(), "Envoy took"),
        (_CASE, _exchange(), _exchange(error="ReadError: x"), "ours raised"),
    ],
)
def test_every_kind_of_difference_is_reported(
    case: Case, theirs: Exchange, ours: Exchange, expected: str
) -> None:
    assert [text for text in differences_of(case, theirs, ours) if text.startswith(expected)]


@pytest.mark.parametrize(
    ("case", "theirs", "ours"),
    [
        (_CASE, _exchange(headers=(("date", "x"),)), _exchange(headers=(("server", "y"),))),
        (_CASE, _exchange(_received("u0", "/", ("x-envoy-internal", "true"))),
         _exchange(_received("u0", "/", ("traceparent", "00-1-1-00")))),
        (_SPREAD, _exchange(_received("u0"), _received("u1")),
         _exchange(_received("u2"), _received("u0"))),
        (_WINDOW, _exchange(took=0.11), _exchange(took=0.19)),
    ],
)  # fmt: skip
def test_documented_normalisation_is_not_a_difference(
    case: Case, theirs: Exchange, ours: Exchange
) -> None:
    assert list(differences_of(case, theirs, ours)) == []


@pytest.mark.parametrize(
    "build",
    [generate_matches.build, generate_rewrites.build, generate_retries.build,
     generate_timeouts.build],
)  # fmt: skip
def test_a_seed_is_a_run_and_case_names_are_unique(
    build: Callable[[int, Upstreams], Plan],
) -> None:
    with Upstreams(UPSTREAMS) as upstreams:
        first, again, other = build(5, upstreams), build(5, upstreams), build(6, upstreams)
    assert first.cases == again.cases
    assert first.tables == again.tables
    assert first.tables != other.tables
    assert len({case.name for case in first.cases}) == len(first.cases)


@pytest.mark.parametrize(
    "action",
    [
        ForwardAction((WeightedCluster("a"),), mirrors=(Mirror("b", compare=Comparison()),)),
        ForwardAction((WeightedCluster("a"),), hedging=Hedging(delay_s=1.0)),
        ForwardAction((WeightedCluster("a"),), include_attempt_count=True),
        ForwardAction(
            (WeightedCluster("a"),),
            retry=RetryPolicy(frozenset({"5xx"}), methods=frozenset({"GET"})),
        ),
    ],
)
def test_what_envoy_cannot_say_is_refused_not_dropped(action: ForwardAction) -> None:
    with pytest.raises(to_envoy_routes.Untranslatable):
        to_envoy_routes._forward(action)


def test_model_values_are_shown_without_their_defaults() -> None:
    shown = compact(ForwardAction((WeightedCluster("a", 2),)))
    assert shown == "ForwardAction(clusters=(WeightedCluster(cluster='a', weight=2)))"
