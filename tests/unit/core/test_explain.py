"""Explanations word for word, and that explaining changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from core_support import call_of, cluster, counts, endpoints, head, host_of, plane_of, status, to

from meshclient import Mesh
from meshclient.errors import NoHealthyEndpoint
from meshclient.explain import explain
from meshclient.model.cluster import ClusterPolicy, LoadBalancing, TlsSettings
from meshclient.model.endpoint import Endpoint, OriginalDestination
from meshclient.model.matching import HeaderMatch, PathMatch, RouteMatch, StringMatch
from meshclient.model.retry import RetryPolicy
from meshclient.model.routes import (
    DirectResponse,
    ForwardAction,
    HostRewrite,
    PathRewrite,
    RedirectAction,
    Route,
    WeightedCluster,
)

JASON = RouteMatch(headers=(HeaderMatch("end-user", StringMatch("exact", "jason")),))
RETRY = RetryPolicy(
    frozenset({"5xx", "retriable-status-codes"}),
    num_retries=2,
    per_try_timeout_s=0.5,
    status_codes=frozenset({429}),
    previous_hosts=True,
    methods=frozenset({"GET"}),
)

ISTIO = """\
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec:
  ports: [{port: 9080, name: http}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: reviews, namespace: default}
subsets:
- addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]
  ports: [{port: 9080, name: http}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - match:
    - headers: {end-user: {exact: jason}}
    route: [{destination: {host: reviews}}]
  - route: [{destination: {host: reviews}}]
    timeout: 2s
    mirror: {host: reviews}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {}}
"""

ISTIO_TEXT = """\
GET http://reviews:9080/x   (snapshot 1)
=> forwarded to outbound|9080||reviews.default.svc.cluster.local

virtual host reviews.default.svc.cluster.local:9080  FILE:14 (VirtualService default/reviews)
     route 0: header end-user: is missing, wanted exactly 'jason'  \
[FILE:20 (VirtualService default/reviews)]
  -> route 1: matches  [FILE:23 (VirtualService default/reviews)]

cluster outbound|9080||reviews.default.svc.cluster.local  round_robin
  10.0.0.1:9080  weight 1  in flight 0  candidate
  10.0.0.2:9080  weight 1  in flight 0  candidate

timeout over all tries: 2 s
timeout per try: none
idle timeout: none
retries: up to 2 on cancelled, connect-failure, refused-stream, unavailable; \
back-off 25 to 250 ms; endpoints already tried are avoided
mirror: 100 % to outbound|9080||reviews.default.svc.cluster.local

decided by:
  FILE:14 (VirtualService default/reviews)
  FILE:23 (VirtualService default/reviews)
  FILE:1 (Service default/reviews)
  FILE:27 (DestinationRule default/reviews)"""


def test_an_istio_file_word_for_word(tmp_path: Path):
    path = tmp_path / "reviews.yaml"
    path.write_text(ISTIO)
    with Mesh.from_file(path, watch=False) as mesh:
        text = str(mesh.explain("GET", "http://reviews:9080/x"))
    assert text.replace(str(path), "FILE") == ISTIO_TEXT


NATIVE = {
    "version": 1,
    "services": {
        "reviews": {
            "endpoints": [
                {"address": "10.0.0.1:80", "labels": {"version": "v1"}},
                {"address": "10.0.0.2:80", "labels": {"version": "v2"}, "weight": 3},
            ],
            "subsets": {"v1": {"labels": {"version": "v1"}}, "v2": {"labels": {"version": "v2"}}},
            "routes": [
                {"match": {"path": "/healthz"}, "respond": {"status": 204}},
                {"to": {"v1": 90, "v2": 10}},
            ],
        }
    },
}

NATIVE_TEXT = """\
GET http://reviews/   (snapshot 1)
=> forwarded to reviews/v1 90 %, reviews/v2 10 %

virtual host reviews  <memory> (documents[0])
     routes[0]: path / is not /healthz  [<memory> (documents[0])]
  -> routes[1]: matches  [<memory> (documents[0])]

cluster reviews/v1  90 %  least_request
  10.0.0.1:80  weight 1  in flight 0  candidate  version=v1

cluster reviews/v2  10 %  least_request
  10.0.0.2:80  weight 3  in flight 0  candidate  version=v2

timeout over all tries: none
timeout per try: none
idle timeout: none
retries: up to 2 on connect-failure, refused-stream; back-off 25 to 250 ms; \
endpoints already tried are avoided; \
after bytes were sent only for DELETE, GET, HEAD, OPTIONS, PUT, TRACE

decided by:
  <memory> (documents[0])"""


def test_a_native_document_word_for_word():
    with Mesh.from_documents([NATIVE]) as mesh:
        assert str(mesh.explain("get", "http://reviews")) == NATIVE_TEXT
        answered = mesh.explain("GET", "http://reviews/healthz")
        assert answered.verdict == "answered directly: 204"


def test_to_dict_holds_plain_values_under_stable_names():
    plane = plane_of(host_of(Route(to("b"), JASON, name="jason"), to(retry=RETRY, timeout_s=2.0)))
    found = explain(plane, head("/x")).to_dict()
    assert found == {
        "request": "GET http://a.test/x",
        "snapshot_version": 1,
        "virtual_host": "v",
        "virtual_host_source": "",
        "verdict": "forwarded to a",
        "routes": [
            {
                "name": "jason",
                "verdict": "header end-user: is missing, wanted exactly 'jason'",
                "source": "",
            },
            {"name": "r", "verdict": "matches", "source": ""},
        ],
        "rewritten": "",
        "clusters": [
            {
                "name": "a",
                "share": "",
                "load_balancing": "round_robin",
                "problem": "",
                "candidates": [
                    {
                        "endpoint": f"10.0.0.{n}:80",
                        "health": "healthy",
                        "weight": 1,
                        "effective_weight": 1.0,
                        "in_flight": 0,
                        "priority": 0,
                        "priority_load": 100,
                        "locality": "",
                        "locality_load": None,
                        "panic": False,
                        "excluded": "",
                        "labels": "",
                    }
                    for n in (1, 2)
                ],
            }
        ],
        "timeouts": {
            "timeout over all tries": "2 s",
            "timeout per try": "0.5 s",
            "idle timeout": "none",
        },
        "filters": [],
        "retry": (
            "up to 2 on 5xx, retriable-status-codes; status 429; back-off 25 to 250 ms; "
            "endpoints already tried are avoided; after bytes were sent only for GET"
        ),
        "beside": [],
        "documents": [],
        "not_honoured": [],
    }
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (DirectResponse(418), "answered directly: 418"),
        (RedirectAction(302, host="b.test"), "redirected: 302 to http://b.test/"),
        (to("gone"), "forwarded to gone (this cluster does not exist: 503 (NC))"),
        (
            to("gone", cluster_not_found_status=404),
            "forwarded to gone (this cluster does not exist: 404 (NC))",
        ),
        (
            ForwardAction(cluster_header="x-to"),
            "GET http://a.test/: the header x-to, which names the cluster, is missing: 503 (NC)",
        ),
    ],
)
def test_verdicts_of_actions(action, verdict):
    assert explain(plane_of(action), head()).verdict == verdict


def test_verdicts_without_a_route():
    plane = plane_of(host_of(Route(to(), RouteMatch(path=PathMatch("exact", "/x")))))
    assert explain(plane, head("/y")).verdict == "no route of this host matches: 404 (NR)"
    other = head(host="other.test", port=8080)
    assert explain(plane, other).verdict == (
        "no policy knows this host: passes through to other.test:8080 untouched"
    )
    strict = plane_of(to(), outbound="registry_only")
    assert explain(strict, other).verdict == (
        "no policy knows this host, and outbound is registry_only: refused (502)"
    )


def test_what_is_excluded_and_why():
    mixed = cluster(
        endpoints=(
            Endpoint("10.0.0.1", 80),
            Endpoint("10.0.0.2", 80, health="unhealthy"),
            Endpoint("10.0.0.3", 80, priority=1),
            Endpoint("10.0.0.4", 80, weight=5),
            Endpoint("10.0.0.5", 80),
        )
    )
    found = explain(plane_of(to(), mixed), head())
    rows = {row["endpoint"]: row["excluded"] for row in found.clusters[0]["candidates"]}
    assert rows == {
        "10.0.0.1:80": "",
        "10.0.0.2:80": "unhealthy",
        "10.0.0.3:80": "priority 1; others take the whole load",
        "10.0.0.4:80": "",
        "10.0.0.5:80": "",
    }
    assert "10.0.0.2:80  weight 1  in flight 0  /failed_eds_health  excluded: unhealthy" in str(
        found
    )
    assert "10.0.0.3:80  weight 1  in flight 0  priority 1 (0 %)  excluded" in str(found)


def test_problems_of_clusters():
    no_panic = ClusterPolicy(LoadBalancing("round_robin"), panic_threshold_percent=0)
    sick = cluster(endpoints=endpoints(1, health="unhealthy"), policy=no_panic)
    found = explain(plane_of(to(), sick), head())
    assert found.verdict == "forwarded to a (no healthy endpoint: 503 (UH))"
    assert "\ncluster a  round_robin\n  no healthy endpoint: 503 (UH)\n" in str(found)
    unresolved = cluster(count=0, discovery_error="dns a: NXDOMAIN")
    verdict = explain(plane_of(to(), unresolved), head()).verdict
    assert verdict.endswith("(no healthy endpoint: 503 (UH): dns a: NXDOMAIN)")
    secret = cluster(policy=ClusterPolicy(tls=TlsSettings("mutual")))
    assert "never sent in plain text" in explain(plane_of(to(), secret), head()).verdict
    dialled = cluster(count=0, discovery=OriginalDestination())
    assert explain(plane_of(to(), dialled), head()).verdict == "forwarded to a"


@pytest.mark.parametrize(
    ("action", "rewritten"),
    [
        (to(), ""),
        (to(path_rewrite=PathRewrite("full", "/new")), "GET /new?q=1  Host: a.test"),
        (to(host_rewrite=HostRewrite("literal", "b.test")), "GET /old?q=1  Host: b.test"),
        (to(host_rewrite=HostRewrite("endpoint")), "GET /old?q=1  Host: the endpoint's own"),
        (
            ForwardAction(cluster_header="x-to", path_rewrite=PathRewrite("full", "/new")),
            "GET /new?q=1  Host: a.test",
        ),
    ],
)
def test_what_would_be_sent(action, rewritten):
    found = explain(plane_of(action), head("/old?q=1", [("x-to", "a")]))
    assert found.rewritten == rewritten


def test_the_callers_control_headers_count_as_in_a_call():
    lines = [
        ("x-envoy-upstream-rq-timeout-ms", "400"),
        ("x-envoy-retry-on", "reset"),
        ("x-envoy-max-retries", "7"),
    ]
    found = explain(plane_of(to(retry=RETRY, timeout_s=2.0)), head(headers=lines))
    assert found.timeouts["timeout over all tries"] == "0.4 s"
    assert found.timeouts["timeout per try"] == "none", "no shorter than the route's: dropped"
    assert found.retry.startswith("up to 7 on 5xx, reset, retriable-status-codes")


@pytest.mark.parametrize(
    ("lines", "shares"),
    [
        ([], ["90 %", "10 %"]),
        ([("x-share", "95")], ["(as the header x-share says)"]),
        ([("x-share", "many")], ["90 %", "10 %"]),
    ],
)
def test_a_split_is_shown_with_its_odds_unless_a_header_decides(lines, shares):
    split = ForwardAction(
        clusters=(WeightedCluster("a", 90), WeightedCluster("b", 10)), weight_header="x-share"
    )
    found = explain(plane_of(split, cluster("a"), cluster("b")), head(headers=lines))
    assert [row["share"] for row in found.clusters] == shares
    if len(shares) == 1:
        assert found.clusters[0]["name"] == "b"


def test_a_header_that_names_the_cluster_is_named():
    found = explain(plane_of(ForwardAction(cluster_header="x-to")), head(headers=[("X-To", "a")]))
    assert [(row["name"], row["share"]) for row in found.clusters] == [
        ("a", "(as the header x-to says)")
    ]


@pytest.mark.parametrize("policy", ["round_robin", "least_request", "random"])
def test_explaining_changes_nothing(policy):
    weighted = (Endpoint("10.0.0.1", 80, weight=3), Endpoint("10.0.0.2", 80))
    action = to(retry=RETRY, timeout_s=1.0, path_rewrite=PathRewrite("full", "/new"))

    def picks(explained: bool) -> list[str]:
        one = cluster(endpoints=weighted, policy=ClusterPolicy(LoadBalancing(policy)))
        plane = plane_of(action, one)
        found = []
        for _ in range(8):
            if explained:
                request = head("/old", [("x-envoy-max-retries", "1")])
                lines = list(request.headers)
                explain(plane, request)
                assert (request.path, list(request.headers)) == ("/old", lines)
                assert counts(plane) == 0
            attempt = call_of(plane).next_attempt(0.0)
            found.append(attempt.endpoint)
            attempt.close(0.0)
        return found

    assert picks(explained=True) == picks(explained=False)


def test_a_redirect_with_a_rewrite_leaves_the_head_alone():
    request = head("/old")
    explain(plane_of(RedirectAction(path_rewrite=PathRewrite("full", "/new"))), request)
    assert request.path == "/old"


def test_in_flight_requests_show():
    plane = plane_of(to(), cluster(count=1))
    attempt = call_of(plane).next_attempt(0.0)
    assert "in flight 1" in str(explain(plane, head()))
    attempt.close(0.0)
    assert "in flight 0" in repr(explain(plane, head()))


def test_a_hash_says_which_endpoint_it_means():
    from meshclient.model.routes import HashPolicy

    ring = ClusterPolicy(LoadBalancing("ring_hash"))
    plane = plane_of(to(hash_policy=(HashPolicy("header", "x-user"),)), cluster(policy=ring))
    found = explain(plane, head(headers=[("x-user", "ann")]))
    call = call_of(plane, head(headers=[("x-user", "ann")]))
    assert f"hash {call.hash64} -> {call.next_attempt(0.0).endpoint}" in str(found)
    assert "nothing to hash: a random endpoint" in str(explain(plane, head()))


def test_an_ejected_endpoint_says_for_how_long():
    from meshclient.model.cluster import OutlierDetection

    policy = ClusterPolicy(
        LoadBalancing("round_robin"),
        outlier_detection=OutlierDetection(consecutive_5xx=1, max_ejection_percent=50),
    )
    plane = plane_of(to(), cluster(policy=policy))
    call = call_of(plane)
    attempt = call.next_attempt(0.0)
    call.settle(attempt, status(500), 0.0)
    (event,) = plane.clusters["a"].tend(0.0)
    assert event.endpoint == attempt.endpoint
    text = str(explain(plane, head(), now=10.0))
    assert f"{attempt.endpoint}  weight 1  in flight 1  /failed_outlier_check" in text
    assert "ejected for 20.0 s more  excluded: ejected" in text


def test_filters_say_what_they_do():
    from meshclient.model.matching import Fraction
    from meshclient.model.routes import Fault

    fault = Fault(2.0, Fraction(10), 503, None, Fraction(1, 1_000_000))
    plane = plane_of(host_of(Route(to(), name="r", fault=fault)))
    found = explain(plane, head())
    assert found.filters == [
        "fault: 2 s delay for 10 % of the calls, fault: abort with 503 for 0.0001 % of the calls"
    ]
    assert "before the call:\n  fault: 2 s delay" in str(found)


def with_settings(**fields):
    return ClusterPolicy(LoadBalancing("round_robin", **fields))


def test_a_route_that_asks_for_labels_says_who_carries_them():
    from meshclient.model.load_balancing import SubsetSelection, SubsetSelector

    selection = SubsetSelection((SubsetSelector(("v",)),))
    members = [Endpoint(f"10.0.0.{n}", 80, labels=(("v", str(n)),)) for n in (1, 2)]
    one = replace(cluster(policy=with_settings(subsets=selection)), endpoints=tuple(members))
    found = plane_of(to(subset=(("v", "2"),)), one)
    assert "subset v=2 -> 10.0.0.2:80" in str(explain(found, head()))
    absent = plane_of(to(subset=(("v", "3"),)), one)
    assert "there is no subset v=3: the fallback_policy decides" in str(explain(absent, head()))
    with pytest.raises(NoHealthyEndpoint, match=r"nobody of the subset v=3 .* no fallback"):
        call_of(absent).next_attempt(0.0)
    assert "no labels asked for" in str(explain(plane_of(to(), one), head()))


def test_a_session_says_where_it_is_and_what_becomes_of_a_lost_one():
    from base64 import b64encode

    from meshclient.model.load_balancing import StatefulSession

    session = StatefulSession("header", "x-home", strict=True)
    plane = plane_of(to(), cluster(count=2, policy=with_settings(session=session)))
    home = plane.clusters["a"].states[1].key

    def asking(where):
        return head(headers=[("x-home", b64encode(where.encode()).decode())])

    assert f"session -> {home}" in str(explain(plane, asking(home)))
    assert "the session is strict: 503" in str(explain(plane, asking("10.9.9.9:1")))
    with pytest.raises(NoHealthyEndpoint, match="the endpoint of the session is gone"):
        call_of(plane, asking("10.9.9.9:1")).next_attempt(0.0)
    assert "session" not in str(explain(plane, head()))


def test_an_empty_cluster_is_not_called_unhealthy():
    with pytest.raises(NoHealthyEndpoint, match="it has no endpoints"):
        call_of(plane_of(to(), cluster(count=0))).next_attempt(0.0)
