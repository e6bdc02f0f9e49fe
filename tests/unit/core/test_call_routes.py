"""What a call decides before its first try: host, route, cluster, headers, refusals."""

from __future__ import annotations

import pytest
from core_support import call_of, cluster, counts, head, host_of, plane_of, sent, snapshot_of, to

from meshclient import errors
from meshclient.model.cluster import ClusterPolicy, TlsSettings
from meshclient.model.endpoint import OriginalDestination
from meshclient.model.matching import HeaderMatch, PathMatch, RouteMatch, StringMatch
from meshclient.model.routes import (
    DirectResponse,
    ForwardAction,
    HeaderChange,
    HeaderOperations,
    HostRewrite,
    PathRewrite,
    RedirectAction,
    Route,
    WeightedCluster,
)
from meshclient.plane import build_plane
from meshclient.testing import ScriptedRandom

A_ONLY = RouteMatch(path=PathMatch("prefix", "/a"))


def test_a_route_leads_to_its_cluster():
    call = call_of(plane_of(to()))
    assert (call.virtual_host_name, call.route_name, call.cluster_name) == ("v", "r", "a")
    assert call.reply is None
    assert call.error is None
    assert counts(call.plane) == 0, "deciding is not calling"


def test_a_host_without_a_matching_route_is_404_nr():
    call = call_of(plane_of(host_of(Route(to(), A_ONLY))), head("/b?secret=1"))
    error = call.error
    assert type(error) is errors.NoRoute
    assert (error.status, error.flag, error.body) == (404, "NR", "")
    assert str(error) == "GET http://a.test/b: the host is known, but none of its routes matches"
    with pytest.raises(errors.NoRoute):
        call.next_attempt(0.0)


def test_the_first_route_that_matches_wins():
    jason = RouteMatch(headers=(HeaderMatch("end-user", StringMatch("exact", "jason")),))
    plane = plane_of(host_of(Route(to("b"), jason), to("a")), cluster("a"), cluster("b"))
    assert call_of(plane).cluster_name == "a"
    assert call_of(plane, head(headers=[("End-User", "jason")])).cluster_name == "b"


def test_an_unknown_host_passes_through_untouched():
    request = head("/x?q=1", [("x-envoy-max-retries", "3")], "other.test", port=8080)
    before = list(request.headers)
    call = call_of(plane_of(to()), request)
    attempt = call.next_attempt(0.0)
    assert (call.cluster_name, attempt.endpoint) == ("PassthroughCluster", "other.test:8080")
    assert list(call.head.headers) == before
    assert attempt.headers is request.headers.raw
    assert (attempt.response_timeout_s, attempt.deadline) == (None, None)
    assert call.report.virtual_host == call.report.route == ""
    assert counts(call.plane) == 1
    attempt.close(0.0)
    assert counts(call.plane) == 0


def test_a_host_header_does_not_redirect_a_pass_through():
    request = head(host="name-in-header.test")
    request.dialled = "127.0.0.1"
    attempt = call_of(plane_of(to()), request).next_attempt(0.0)
    assert attempt.endpoint == "127.0.0.1:80"


def test_registry_only_refuses_an_unknown_host():
    call = call_of(plane_of(to(), outbound="registry_only"), head(host="other.test"))
    error = call.error
    assert type(error) is errors.UnknownHost
    assert (error.status, error.flag) == (502, "")
    assert "other.test" in str(error)
    assert "registry_only" in str(error)


@pytest.mark.parametrize("code", [503, 404])
def test_an_unknown_cluster_answers_as_the_route_says(code):
    call = call_of(plane_of(to("gone", cluster_not_found_status=code)))
    error = call.error
    assert type(error) is errors.UnknownCluster
    assert (error.status, error.flag, error.body) == (code, "NC", "")
    assert "cluster 'gone'" in str(error)
    assert call.report.cluster == "gone"
    assert errors.UnknownCluster.status == 503, "the class keeps its own"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (ForwardAction(cluster_header="x-to"), "the header x-to, which names the cluster"),
        (
            ForwardAction(clusters=(WeightedCluster("a", 0), WeightedCluster("b", 0))),
            "no cluster of the route has any weight",
        ),
    ],
)
def test_a_route_that_names_no_cluster_says_why(action, words):
    error = call_of(plane_of(action)).error
    assert type(error) is errors.UnknownCluster
    assert words in str(error)


def test_a_header_may_name_the_cluster():
    plane = plane_of(ForwardAction(cluster_header="x-to"))
    assert call_of(plane, head(headers=[("X-To", "a")])).cluster_name == "a"
    wrong = call_of(plane, head(headers=[("X-To", "b")]))
    assert "cluster 'b'" in str(wrong.error)


@pytest.mark.parametrize(("drawn", "name"), [(0, "a"), (89, "a"), (90, "b"), (99, "b"), (100, "a")])
def test_the_calls_one_random_number_decides_a_split(drawn, name):
    split = ForwardAction(clusters=(WeightedCluster("a", 90), WeightedCluster("b", 10)))
    plane = plane_of(split, cluster("a"), cluster("b"))
    rand = ScriptedRandom(drawn)
    assert call_of(plane, rand=rand).cluster_name == name
    assert rand.drawn == [drawn]


#: Settings that no file can make good: there is no certificate, no name, no secret store.
REFUSED_TLS = [
    TlsSettings("simple", credential_name="secret"),
    TlsSettings("mutual"),
    TlsSettings("istio_mutual"),
]


@pytest.mark.parametrize("tls", REFUSED_TLS, ids=lambda tls: tls.mode)
def test_tls_that_cannot_be_originated_refuses_before_anything_is_counted_or_edited(tls):
    policy = ClusterPolicy(tls=tls)
    plane = plane_of(to(path_rewrite=PathRewrite("full", "/x")), cluster(policy=policy))
    call = call_of(plane)
    assert type(call.error) is errors.SecurityError
    assert f"TLS mode {tls.mode.upper()} towards a," in str(call.error)
    assert call.head.path == "/"
    with pytest.raises(errors.SecurityError):
        call.next_attempt(0.0)
    assert call.attempts == []
    assert counts(plane) == 0


def test_a_refusal_names_the_service_or_else_the_cluster():
    tls = ClusterPolicy(tls=TlsSettings("mutual"))
    for service, name in (("shop", "shop"), ("", "a")):
        plane = plane_of(to(), cluster(policy=tls, service=service))
        assert f"towards {name}," in str(call_of(plane).error)


def test_tls_disabled_on_purpose_is_plain_text():
    policy = ClusterPolicy(tls=TlsSettings("disable"))
    assert call_of(plane_of(to(), cluster(policy=policy))).error is None


def test_redirects_and_direct_responses_are_replies_without_a_try():
    redirect = call_of(plane_of(RedirectAction(301, host="b.test")))
    assert redirect.reply is not None
    assert redirect.reply.status == 301
    assert redirect.reply.headers.get("location") == "http://b.test/"
    direct = call_of(plane_of(DirectResponse(418, b"tea")))
    assert direct.reply is not None
    assert (direct.reply.status, direct.reply.body) == (418, b"tea")
    assert direct.report.attempts == []
    assert direct.report.route == "r"


def test_timeouts_are_read_before_the_header_edits_and_retries_after():
    """Envoy's order: an added timeout header comes too late, an added retry header counts."""
    edits = HeaderOperations(
        changes=(
            HeaderChange("x-envoy-upstream-rq-timeout-ms", "9000", "overwrite"),
            HeaderChange("x-envoy-retry-on", "5xx", "overwrite"),
        )
    )
    plane = plane_of(host_of(Route(to(timeout_s=3.0), request_headers=edits)))
    call = call_of(plane, head(headers=[("x-envoy-upstream-rq-per-try-timeout-ms", "500")]))
    assert (call.timeout_s, call.per_try_s) == (3.0, 0.5)
    assert call.policy is not None
    assert call.policy.retry_on == {"5xx"}
    headers = sent(call.next_attempt(0.0).headers)
    assert "x-envoy-retry-on" not in headers
    assert "x-envoy-upstream-rq-per-try-timeout-ms" not in headers
    assert headers["x-envoy-upstream-rq-timeout-ms"] == "9000"


CONTROL = [
    ("x-envoy-retry-on", "5xx"),
    ("X-Envoy-Max-Retries", "5"),
    ("x-envoy-upstream-rq-timeout-ms", "4000"),
    ("x-envoy-hedge-on-per-try-timeout", "true"),
]


def test_control_headers_take_effect_and_never_leave():
    call = call_of(plane_of(to()), head(headers=[*CONTROL, ("x-envoy-other", "stays")]))
    assert call.timeout_s == 4.0
    assert call.policy is not None
    assert call.policy.num_retries == 5
    headers = sent(call.next_attempt(0.0).headers)
    assert set(headers) == {"host", "x-envoy-other", "x-envoy-expected-rq-timeout-ms"}


def test_the_callers_own_header_list_is_never_changed():
    request = head("/old", CONTROL)
    theirs = request.headers.raw
    before = list(theirs)
    edits = HeaderOperations(remove=("x-gone",), changes=(HeaderChange("x-new", "1"),))
    action = to(
        timeout_s=1.0,
        path_rewrite=PathRewrite("full", "/new"),
        host_rewrite=HostRewrite("literal", "b.test"),
        include_attempt_count=True,
    )
    call = call_of(plane_of(host_of(Route(action, request_headers=edits))), request)
    call.next_attempt(0.0)
    assert theirs == before


def test_a_host_rewrite_reaches_the_host_header_and_reports_keep_what_was_dialled():
    action = to(
        path_rewrite=PathRewrite("full", "/new"), host_rewrite=HostRewrite("literal", "b.test")
    )
    call = call_of(plane_of(action), head("/old?q=1"))
    headers = sent(call.next_attempt(0.0).headers)
    assert headers["host"] == "b.test"
    assert headers["x-envoy-original-host"] == "a.test"
    assert headers["x-envoy-original-path"] == "/old?q=1"
    assert (call.head.authority, call.head.path) == ("b.test", "/new?q=1")
    assert call.host == call.report.host == "a.test"


def test_a_cluster_of_original_destination_dials_what_was_dialled():
    plane = plane_of(to(), cluster(count=0, discovery=OriginalDestination()))
    assert call_of(plane, head(port=81)).next_attempt(0.0).endpoint == "a.test:81"
    fixed = plane_of(to(), cluster(count=0, discovery=OriginalDestination(port=9)))
    assert call_of(fixed, head(port=81)).next_attempt(0.0).endpoint == "a.test:9"


def test_a_call_keeps_the_plane_it_began_with():
    old = plane_of(to(), cluster(count=1))
    call = call_of(old)
    new = build_plane(snapshot_of(to("gone"), version=2), old, lambda: 1)
    assert call.next_attempt(0.0).endpoint == "10.0.0.1:80"
    assert call.report.snapshot_version == 1
    assert call_of(new).report.snapshot_version == 2
