"""Which routes a caller gets: the cases of Istio's own sidecar route tests."""

from __future__ import annotations

import pytest
from istio_yaml import destination_rule, service, targets, to, translate, virtual_service

_PORTS = "[{port: 80, name: http}, {port: 8080, name: http-2}]"
_KNOWN = "known.default.svc.cluster.local"
_ALT = "alt-known.default.svc.cluster.local"
_OTHER = "not-default.not-default.svc.cluster.local"
SERVICES = (
    service("known", ports=_PORTS)
    + service("alt-known", ports=_PORTS)
    + service("not-default", "not-default", ports=_PORTS)
)


@pytest.mark.parametrize("port", [80, 8080])
def test_the_destination_port_follows_the_dialled_port(port: int) -> None:
    vs = virtual_service("vs", f"[{_KNOWN}]", to(_ALT))
    assert translate(SERVICES, vs).targets(_KNOWN, port) == {f"{port}||{_ALT}": 1}


def test_an_unknown_host_is_routed_on_port_80_only() -> None:
    foo = "foo.default.svc.cluster.local"
    made = translate(SERVICES, virtual_service("vs", f"[{foo}]", to(foo)))
    assert made.targets(foo) == {f"80||{foo}": 1}
    assert made.host(foo, 8080) is None


def test_an_unknown_host_has_no_route_on_8080_whatever_port_is_named() -> None:
    foo = "foo.default.svc.cluster.local"
    entry = f"[{{match: [{{port: 8080}}], route: [{{destination: {{host: {foo}}}}}]}}]"
    made = translate(SERVICES, virtual_service("vs", f"[{foo}]", entry))
    assert made.host(foo, 8080) is None
    assert made.host(foo, 80) is None
    named = virtual_service("vs", f"[{foo}]", to(foo, "port: {number: 8080}"))
    assert translate(SERVICES, named).host(foo, 8080) is None


@pytest.mark.parametrize("namespace", ["default", "not-default", "arbitrary"])
def test_a_rule_of_any_namespace_governs_a_service(namespace: str) -> None:
    vs = virtual_service("vs", f"[{_KNOWN}]", to(_ALT), namespace)
    made = translate(SERVICES, vs, namespace="not-default")
    assert made.targets(_KNOWN) == {f"80||{_ALT}": 1}


def test_of_three_rules_for_a_host_the_first_wins_whole() -> None:
    rules = [
        virtual_service("a", f"[{_KNOWN}]", to("a.arbitrary"), "arbitrary"),
        virtual_service("b", f"[{_KNOWN}]", to("b.default"), "default"),
        virtual_service("c", f"[{_KNOWN}]", to("c.not-default"), "not-default"),
    ]
    made = translate(SERVICES, *reversed(rules), namespace="not-default")
    assert made.targets(_KNOWN) == {"80||a.arbitrary": 1}
    assert made.codes().count("IST0109") == 2


def test_age_comes_before_the_name() -> None:
    def dated(name: str, stamp: str) -> str:
        text = virtual_service(name, f"[{_KNOWN}]", to(f"{name}.test"))
        return text.replace("{name: ", f'{{creationTimestamp: "{stamp}", name: ', 1)

    made = translate(
        SERVICES, dated("a", "2024-01-02T00:00:00Z"), dated("b", "2024-01-01T00:00:00Z")
    )
    assert made.targets(_KNOWN) == {"80||b.test": 1}


def test_an_unknown_wildcard_becomes_a_literal_virtual_host() -> None:
    made = translate(SERVICES, virtual_service("vs", '["*.unknown.example.com"]', to(_ALT)))
    assert made.targets("*.unknown.example.com") == {f"80||{_ALT}": 1}
    assert made.targets(_KNOWN) == {f"80||{_KNOWN}": 1}
    assert made.host("*.unknown.example.com", 8080) is None


def test_a_known_wildcard_attaches_to_each_service_and_has_no_host_of_its_own() -> None:
    made = translate(SERVICES, virtual_service("vs", '["*.cluster.local"]', to("x.test")))
    assert made.host("*.cluster.local") is None
    for host in (_KNOWN, _ALT, _OTHER):
        assert made.targets(host) == {"80||x.test": 1}


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_the_most_specific_host_beats_age(names: tuple[str, str]) -> None:
    wild = virtual_service(names[0], '["*.cluster.local"]', to("wild.test"))
    exact = virtual_service(names[1], f"[{_KNOWN}]", to("exact.test"))
    made = translate(SERVICES, wild, exact)
    assert made.targets(_KNOWN) == {"80||exact.test": 1}
    assert made.targets(_ALT) == {"80||wild.test": 1}


def test_candidates_come_private_then_named_then_public() -> None:
    def rule(name: str, namespace: str, export: str) -> str:
        return virtual_service(name, f"[{_KNOWN}]", to(f"{name}.test"), namespace, export)

    public = rule("a-public", "default", 'exportTo: ["*"]')
    named = rule("b-named", "default", "exportTo: [not-default]")
    private = rule("c-private", "not-default", 'exportTo: ["."]')
    hidden = rule("aa-hidden", "default", 'exportTo: ["."]')
    made = translate(SERVICES, public, named, private, hidden, namespace="not-default")
    assert made.targets(_KNOWN) == {"80||c-private.test": 1}
    made = translate(SERVICES, public, named, hidden, namespace="not-default")
    assert made.targets(_KNOWN) == {"80||b-named.test": 1}
    made = translate(SERVICES, public, hidden, namespace="not-default")
    assert made.targets(_KNOWN) == {"80||a-public.test": 1}


def test_gateway_rules_do_not_govern_the_mesh_unless_they_name_it() -> None:
    only_gateway = virtual_service("vs", f"[{_KNOWN}]", to(_ALT), more="gateways: [gw]")
    assert translate(SERVICES, only_gateway).targets(_KNOWN) == {f"80||{_KNOWN}": 1}
    both = virtual_service("vs", f"[{_KNOWN}]", to(_ALT), more="gateways: [gw, mesh]")
    assert translate(SERVICES, both).targets(_KNOWN) == {f"80||{_ALT}": 1}


def test_a_service_without_rules_has_istio_s_default_route() -> None:
    route = translate(SERVICES).route("known")
    assert route.action.timeout_s is None
    assert route.action.retry.num_retries == 2
    assert route.action.retry.host_attempts == 5
    assert route.source.document == "Service default/known"


def test_domains_depend_on_the_caller_s_namespace() -> None:
    inside = translate(SERVICES).host("known")
    assert inside is not None
    assert set(inside.domains) == {
        _KNOWN,
        _KNOWN + ".",
        "known",
        "known.default",
        "known.default.svc",
    }
    outside = translate(SERVICES, namespace="not-default")
    assert outside.host("known") is None
    assert outside.host("known.default") is not None


def test_cluster_addresses_and_headless_wildcards_are_domains() -> None:
    vip = service("vip", more='clusterIP: 10.0.0.9, clusterIPs: [10.0.0.9, "fd00::9"]')
    made = translate(vip, service("pets", more="clusterIP: None"))
    assert made.host("10.0.0.9") is made.host("vip")
    assert made.host("[fd00::9]") is made.host("vip")
    assert made.host("*.pets.default.svc") is made.host("pets")
    assert made.host("None") is None


def test_the_port_of_a_host_header_is_ignored() -> None:
    assert all(table.ignore_port for table in translate(SERVICES).routes.values())


def test_a_single_port_is_taken_without_being_named() -> None:
    other = service("other", ports="[{port: 9000, name: http}]")
    made = translate(SERVICES, other, virtual_service("vs", "[known]", to("other")))
    assert made.targets("known") == {"9000||other.default.svc.cluster.local": 1}


def test_rules_without_a_fitting_match_leave_the_default_route() -> None:
    entry = "[{match: [{port: 8080}], route: [{destination: {host: x.test}}]}]"
    made = translate(SERVICES, virtual_service("vs", "[known]", entry))
    assert made.targets("known", 80) == {f"80||{_KNOWN}": 1}
    assert made.targets("known", 8080) == {"8080||x.test": 1}


def test_the_catch_all_ends_the_list_and_the_rest_is_named() -> None:
    entries = (
        "[{match: [{uri: {prefix: /}}], route: [{destination: {host: known}}]},"
        " {route: [{destination: {host: alt-known}}]}]"
    )
    made = translate(SERVICES, virtual_service("vs", "[known]", entries))
    host = made.host("known")
    assert host is not None
    assert len(host.routes) == 1
    assert "IST0130" in made.codes()


def test_an_external_name_is_another_name_of_a_known_service() -> None:
    alias = service("nick", more=f"type: ExternalName, externalName: {_KNOWN}")
    second = service(
        "nicknick", more="type: ExternalName, externalName: nick.default.svc.cluster.local"
    )
    made = translate(SERVICES, alias, second)
    assert made.host("nick") is made.host("known")
    assert made.host("nicknick", 8080) is made.host("known", 8080)
    assert f"outbound|80||{_KNOWN}" in made.clusters
    assert not any("nick." in name for name in made.clusters)


def test_a_rule_for_an_alias_governs_the_alias_alone() -> None:
    alias = service("nick", more=f"type: ExternalName, externalName: {_KNOWN}")
    made = translate(SERVICES, alias, virtual_service("vs", "[nick]", to("nick")))
    assert made.targets("nick") == {f"80||{_KNOWN}": 1}
    assert made.host("nick") is not made.host("known")


def test_a_loop_of_external_names_is_dropped() -> None:
    one = service("one", more="type: ExternalName, externalName: two.default.svc.cluster.local")
    two = service("two", more="type: ExternalName, externalName: one.default.svc.cluster.local")
    made = translate(one, two)
    assert made.clusters == {}
    assert "alias-loop" in made.codes()


def test_weights_of_one_destination_mean_nothing_and_zero_is_dropped() -> None:
    single = "[{route: [{destination: {host: known}, weight: 7}]}]"
    made = translate(SERVICES, virtual_service("vs", "[known]", single))
    assert made.targets("known") == {f"80||{_KNOWN}": 1}
    split = (
        "[{route: [{destination: {host: known}, weight: 3},"
        " {destination: {host: alt-known}, weight: 0},"
        " {destination: {host: x.test}, weight: 9}]}]"
    )
    made = translate(SERVICES, virtual_service("vs", "[known]", split))
    assert made.targets("known") == {f"80||{_KNOWN}": 3, "80||x.test": 9}


def test_references_to_nothing_are_named_and_kept() -> None:
    rule = destination_rule("dr", "known", "subsets: [{name: v1, labels: {v: '1'}}]")
    made = translate(
        SERVICES,
        rule,
        virtual_service("a", "[known]", to("known", "subset: v9, port: {number: 80}")),
        virtual_service("b", "[alt-known]", to("known", "port: {number: 99}")),
        virtual_service("c", "[x.test]", to("gone")),
    )
    assert made.codes().count("IST0101") == 3
    assert made.targets("known") == {f"80|v9|{_KNOWN}": 1}
    assert f"outbound|80|v9|{_KNOWN}" not in made.clusters


def test_a_half_qualified_host_is_taken_literally_with_a_hint() -> None:
    made = translate(SERVICES, virtual_service("vs", "[known.default]", to("known.default")))
    assert "half-qualified-host" in made.codes()
    hints = [d.suggestion for d in made.diagnostics if d.code == "IST0101"]
    assert hints == [f'write "{_KNOWN}"']


def test_tcp_ports_carry_no_http_routes() -> None:
    tcp = service("db", ports="[{port: 80, name: tcp-db}]")
    made = translate(tcp, virtual_service("vs", "[db]", to("db")))
    assert made.host("db.default.svc.cluster.local") is None
    assert made.cluster("80||db.default.svc.cluster.local").protocol == "tcp"
    assert "not-http" in made.codes()


def test_every_route_says_where_it_was_written() -> None:
    made = translate(SERVICES, virtual_service("vs", "[known]", to("known")))
    source = made.route("known").source
    assert (source.file, source.document) == ("policy.yaml", "VirtualService default/vs")
    assert source.line > 0
    assert targets(made.route("known"))
