"""Host names: expansion, comparison and rank are Istio's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.config.istio_names import (
    alternate_names,
    domain_text,
    matches,
    most_specific,
    resolve_short_name,
    subset_of,
    with_wildcards,
)


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("reviews", "reviews.prod.svc.cluster.local"),
        ("Reviews", "reviews.prod.svc.cluster.local"),
        ("reviews.prod", "reviews.prod"),
        ("reviews.prod.svc.cluster.local", "reviews.prod.svc.cluster.local"),
        ("*", "*"),
        ("*.com", "*.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_only_a_name_without_a_dot_is_short(host: str, full: str) -> None:
    assert resolve_short_name(host, "prod", "cluster.local") == full


@pytest.mark.parametrize(
    ("one", "other", "match", "subset"),
    [
        ("a.foo.com", "*.foo.com", True, True),
        ("*.foo.com", "a.foo.com", True, False),
        ("foo.com", "*.foo.com", False, False),
        ("*.b.foo.com", "*.foo.com", True, True),
        ("*.foo.com", "*.b.foo.com", True, False),
        ("a.com", "*", True, True),
        ("*", "*", True, True),
        ("a.com", "a.com", True, True),
        ("a.com", "b.com", False, False),
        ("*.a.com", "*.b.com", False, False),
    ],
)
def test_matches_is_two_way_and_subset_is_not(
    one: str, other: str, match: bool, subset: bool
) -> None:
    assert matches(one, other) is match
    assert subset_of(one, other) is subset


def test_the_most_specific_host_is_exact_then_longest() -> None:
    table = {"*": 1, "*.com": 2, "*.foo.com": 3, "a.foo.com": 4}
    assert most_specific("a.foo.com", table) == ("a.foo.com", 4)
    assert most_specific("b.foo.com", table) == ("*.foo.com", 3)
    assert most_specific("foo.com", table) == ("*.com", 2)
    assert most_specific("*.b.foo.com", table) == ("*.foo.com", 3)
    assert most_specific("x.org", table) == ("*", 1)
    assert most_specific("x.org", {"*.com": 2}) is None


def test_a_service_has_its_short_names_by_namespace() -> None:
    host = "reviews.default.svc.cluster.local"
    assert set(alternate_names(host, "default", "cluster.local")) == {
        host + ".",
        "reviews",
        "reviews.default",
        "reviews.default.svc",
    }
    assert set(alternate_names(host, "other", "cluster.local")) == {
        host + ".",
        "reviews.default",
        "reviews.default.svc",
    }


def test_other_hosts_have_only_the_absolute_form() -> None:
    assert alternate_names("example.com", "default", "cluster.local") == ["example.com."]
    assert alternate_names("10.0.0.1", "default", "cluster.local") == []
    assert with_wildcards(["a", "b"]) == ["a", "b", "*.a", "*.b"]
    assert domain_text("2001:db8::1") == "[2001:db8::1]"
    assert domain_text("10.0.0.1") == "10.0.0.1"


_labels = st.lists(st.sampled_from(["a", "b", "foo", "com"]), min_size=1, max_size=3)
_hosts = st.builds(
    lambda parts, star: ("*." if star else "") + ".".join(parts), _labels, st.booleans()
)


@given(_hosts, _hosts)
def test_matching_is_symmetric_and_follows_from_subset(one: str, other: str) -> None:
    assert matches(one, other) == matches(other, one)
    if subset_of(one, other):
        assert matches(one, other)


def specificity(host: str) -> tuple[bool, int, str]:
    """Exact before wildcard, longer before shorter, then by alphabet."""
    return (host.startswith("*"), -len(host), host)


@given(_hosts, st.lists(_hosts, max_size=6))
def test_the_choice_is_the_first_by_rank_of_all_that_cover(host: str, table: list[str]) -> None:
    found = most_specific(host, dict.fromkeys(table))
    covering = sorted((h for h in table if subset_of(host, h)), key=specificity)
    assert (found[0] if found else None) == (covering[0] if covering else None)
