"""Subset selection: which endpoints a call's labels allow, and what stands in for them."""

from __future__ import annotations

import random
from functools import partial
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.balancing import Balancer, carry_over, make_balancer
from meshclient.balancing.subset import Subsets
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint, Labels, labels_of
from meshclient.model.load_balancing import SubsetSelection, SubsetSelector

Health = Literal["healthy", "unhealthy", "draining", "degraded"]


class Asks:
    """A call that asks for labels."""

    hash64 = None

    def __init__(self, **labels: str) -> None:
        self.subset: Labels = labels_of(labels)


#: name -> labels
_HOSTS: dict[str, dict[str, str]] = {
    "a": {"stage": "prod", "version": "1"},
    "b": {"stage": "prod", "version": "2"},
    "c": {"stage": "dev", "version": "2"},
    "d": {"stage": "dev"},
    "e": {},
}


def made(
    selection: SubsetSelection,
    hosts: dict[str, dict[str, str]] | None = None,
    health: dict[str, Health] | None = None,
    policy: LbPolicy = "round_robin",
    previous: Balancer | None = None,
) -> Balancer:
    endpoints = tuple(
        Endpoint(name, 80, labels=labels_of(labels), health=(health or {}).get(name, "healthy"))
        for name, labels in (_HOSTS if hosts is None else hosts).items()
    )
    settings = LoadBalancing(policy, subsets=selection)
    policies = ClusterPolicy(load_balancing=settings, panic_threshold_percent=0)
    cluster = Cluster("c", endpoints=endpoints, policy=policies)
    return make_balancer(cluster, carry_over((), cluster), 3, previous, 50.0)


def reached(balancer: Balancer, request: Asks | None) -> str:
    """The names of all endpoints that calls reach, sorted."""
    rand = partial(random.Random(5).getrandbits, 64)
    picks = [balancer.pick(rand, 0.0, request) for _ in range(120)]
    return "".join(sorted({s.endpoint.address for s in picks if s is not None}))


def selector(*keys: str, **more: object) -> SubsetSelector:
    return SubsetSelector(keys, **more)  # type: ignore[arg-type]


_BOTH = (selector("version", "stage"), selector("stage"))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"stage": "prod"}, "ab"),
        ({"stage": "dev"}, "cd"),
        ({"stage": "prod", "version": "2"}, "b"),
        ({"version": "2"}, ""),
        ({"stage": "test"}, ""),
        ({"stage": "prod", "zone": "z"}, ""),
        ({"stage": "prod", "version": "2", "zone": "z"}, ""),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("policy", ["round_robin", "peak_ewma", "least_request"])
def test_exactly_the_labels_of_a_selector(
    asked: dict[str, str], names: str, policy: LbPolicy
) -> None:
    assert reached(made(SubsetSelection(_BOTH), policy=policy), Asks(**asked)) == names


@pytest.mark.parametrize(
    ("selection", "asked", "names"),
    [
        (SubsetSelection(_BOTH, "any_endpoint"), {"stage": "x"}, "abcde"),
        (SubsetSelection(_BOTH, "any_endpoint"), {}, "abcde"),
        (SubsetSelection(_BOTH, "default_subset", (("stage", "dev"),)), {"stage": "x"}, "cd"),
        (SubsetSelection(_BOTH, "default_subset", (("stage", "dev"),)), {}, "cd"),
        (SubsetSelection(_BOTH, "default_subset"), {"zone": "x"}, "abcde"),
        (SubsetSelection(_BOTH, "default_subset", (("stage", "no"),)), {"zone": "x"}, ""),
        # The selector's own word goes before the cluster's; it needs exactly its keys.
        (
            SubsetSelection((selector("stage", fallback="no_fallback"),), "any_endpoint"),
            {"stage": "x"},
            "",
        ),
        (
            SubsetSelection((selector("stage", fallback="no_fallback"),), "any_endpoint"),
            {"zone": "x"},
            "abcde",
        ),
        (SubsetSelection((selector("stage", fallback="any_endpoint"),)), {"stage": "x"}, "abcde"),
        (
            SubsetSelection(
                (selector("stage", fallback="default_subset"),), default_subset=(("version", "2"),)
            ),
            {"stage": "x"},
            "bc",
        ),
        # Fewer labels, once and again.
        (
            SubsetSelection(
                (
                    selector("stage"),
                    selector("stage", "version", fallback="keys_subset", fallback_keys=("stage",)),
                )
            ),
            {"stage": "dev", "version": "9"},
            "cd",
        ),
        (
            SubsetSelection(
                (
                    selector("stage", fallback="any_endpoint"),
                    selector("stage", "version", fallback="keys_subset", fallback_keys=("stage",)),
                )
            ),
            {"stage": "x", "version": "9"},
            "abcde",
        ),
    ],
)
def test_fallbacks(selection: SubsetSelection, asked: dict[str, str], names: str) -> None:
    assert reached(made(selection), Asks(**asked)) == names


def test_a_selector_that_begins_an_earlier_one_brings_no_fallback_of_its_own() -> None:
    """Envoy's tree keeps what it has."""
    short = selector("stage", fallback="any_endpoint")
    long = selector("stage", "version")
    assert reached(made(SubsetSelection((long, short))), Asks(stage="x")) == ""
    assert reached(made(SubsetSelection((short, long))), Asks(stage="x")) == "abcde"


def test_a_subset_without_a_healthy_endpoint_is_no_reason_to_fall_back() -> None:
    selection = SubsetSelection((selector("stage"),), "any_endpoint")
    sick: dict[str, Health] = {"a": "unhealthy", "b": "draining"}
    assert reached(made(selection, health=sick), Asks(stage="prod")) == ""
    assert reached(made(selection, health=sick), Asks(stage="dev")) == "cd"


def test_panic_mode_any_helps_a_fallback_only() -> None:
    default: Labels = (("stage", "none"),)
    selectors = (selector("stage"),)
    with_panic = SubsetSelection(selectors, "default_subset", default, panic_mode_any=True)
    assert reached(made(with_panic), Asks(zone="x")) == "abcde"
    assert reached(made(with_panic), Asks(stage="prod")) == "ab"
    nothing = SubsetSelection(selectors, "no_fallback", panic_mode_any=True)
    assert reached(made(nothing), Asks(zone="x")) == ""


def test_single_host_per_subset_keeps_the_first_whatever_its_health() -> None:
    selection = SubsetSelection((selector("stage", single_host_per_subset=True),))
    assert reached(made(selection), Asks(stage="dev")) == "c"
    assert reached(made(selection, health={"a": "unhealthy"}), Asks(stage="prod")) == "a"


def test_nothing_known_of_the_call_means_no_labels() -> None:
    balancer = made(SubsetSelection(_BOTH, "any_endpoint"))
    assert reached(balancer, None) == "abcde"


def test_subsets_keep_their_turns_and_say_what_they_are() -> None:
    selection = SubsetSelection((selector("stage"),), "any_endpoint")
    first = made(selection)
    assert isinstance(first, Subsets)
    assert sorted(first.subsets()) == [(("stage", "dev"),), (("stage", "prod"),)]
    second = made(selection, previous=first)
    assert isinstance(second, Subsets)
    for labels, leaf in first.subsets().items():
        assert second.subsets()[labels].turns is leaf.turns
    assert [c.state.endpoint.address for c in second.candidates()] == list("abcde")
    assert "subset" in repr(second)


def test_what_measures_inside_a_subset_is_told_and_refreshed() -> None:
    selection = SubsetSelection((selector("stage"),))
    assert made(selection).on_outcome is None
    assert made(selection).refresh_at is None
    assert made(selection, policy="peak_ewma").on_outcome is not None
    weighted = made(selection, policy="client_side_weighted_round_robin")
    assert weighted.refresh_at == 51.0
    assert weighted.on_outcome is not None
    assert made(selection, hosts={}).pick(lambda: 0, 0.0, Asks(stage="dev")) is None


_LABELS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("123"), max_size=3)


@settings(deadline=None)
@given(
    hosts=st.lists(_LABELS, max_size=8),
    keys=st.lists(st.sets(st.sampled_from("xyz"), min_size=1), min_size=1, max_size=4),
    asked=_LABELS,
    fallback=st.sampled_from(("no_fallback", "any_endpoint", "default_subset")),
    default=_LABELS,
)
def test_a_plain_search_finds_the_same_endpoints(
    hosts: list[dict[str, str]],
    keys: list[set[str]],
    asked: dict[str, str],
    fallback: Literal["no_fallback", "any_endpoint", "default_subset"],
    default: dict[str, str],
) -> None:
    named = {"abcdefgh"[n]: labels for n, labels in enumerate(hosts)}
    selection = SubsetSelection(tuple(selector(*k) for k in keys), fallback, labels_of(default))
    balancer = made(selection, hosts=named)
    want = [n for n, ls in named.items() if asked and asked.items() <= ls.items()]
    if not (set(asked) in keys and want):
        want = {
            "no_fallback": [],
            "any_endpoint": list(named),
            "default_subset": [n for n, ls in named.items() if default.items() <= ls.items()],
        }[fallback]
    assert reached(balancer, Asks(**asked)) == "".join(sorted(want))
