"""VirtualService documents as a whole: hosts, other protocols, repeated documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from istio_yaml import service, to, translate, virtual_service


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_all_api_versions_mean_the_same(version: str) -> None:
    text = virtual_service("vs", "[a]", to("b.test")).replace("io/v1", f"io/{version}")
    assert translate(service("a"), text).targets("a") == {"80||b.test": 1}


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ('["*"]', "wildcard host * is not allowed"),
        ("[a, a]", "duplicate hosts in virtual service"),
        ("[a, a.default.svc.cluster.local]", "duplicate hosts in virtual service"),
        ('["*.x.com", "*.com"]', "duplicate hosts in virtual service"),
        ('["a.*.com"]', "a star may only stand first"),
        ("a", "expected a list"),
        ("[1]", "expected a text"),
    ],
)
def test_bad_hosts(hosts: str, message: str) -> None:
    errors = translate(virtual_service("vs", hosts, to("a.test"))).errors
    assert any(message in text for text in errors), errors


def test_a_wildcard_beside_a_host_it_covers_is_allowed() -> None:
    assert translate(virtual_service("vs", '["*.x.com", a.x.com]', to("a.test"))).errors == []


def test_a_gateway_may_use_the_bare_wildcard() -> None:
    made = translate(virtual_service("vs", '["*"]', to("a.test"), more="gateways: [gw]"))
    assert made.errors == []
    assert made.routes == {}


def test_no_rules_at_all_is_an_error() -> None:
    assert (
        "http, tcp or tls must be provided" in translate(virtual_service("vs", "[a]", "[]")).errors
    )


_TLS = (
    "tls: [{match: [{port: 443, sniHosts: [a.test]}],"
    " route: [{destination: {host: a.test}, weight: 100}]}]"
)
_TCP = "tcp: [{match: [{port: 31400}], route: [{destination: {host: a.test}}]}]"


@pytest.mark.parametrize("rules", [_TLS, _TCP])
def test_other_protocols_are_checked_and_noted(rules: str) -> None:
    made = translate(virtual_service("vs", "[a.test]", to("a.test"), more=rules))
    assert made.errors == []
    assert "not-honoured" in made.codes("info")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (_TLS.replace("sniHosts: [a.test]", "sniHosts: []"), "at least one SNI host"),
        (_TLS.replace("sniHosts: [a.test]", "sniHosts: [b.test]"), "not a compatible subset"),
        (_TLS.replace("match: ", "matches: "), 'unknown field "matches"'),
        (_TCP.replace("destination: {host: a.test}", "weight: 1"), "destination is missing"),
        ("tcp: [{match: [{port: 1}]}]", "route is missing"),
    ],
)
def test_bad_rules_of_other_protocols(rules: str, message: str) -> None:
    errors = translate(virtual_service("vs", "[a.test]", to("a.test"), more=rules)).errors
    assert any(message in text for text in errors), errors


def test_unknown_fields_come_with_a_suggestion() -> None:
    made = translate(virtual_service("vs", "[a]", to("a"), more="gateway: [gw]"))
    (found,) = [d for d in made.diagnostics if d.code == "unknown-field"]
    assert found.suggestion == 'did you mean "gateways"?'
    assert found.field == "spec.gateway"


def test_fields_beside_the_spec_are_known_or_refused() -> None:
    text = virtual_service("vs", "[a]", to("a"))
    assert translate(service("a"), text + "status: {}\n").errors == []
    assert translate(service("a"), text + "sepc: {}\n").errors == [
        'unknown field "sepc" in VirtualService'
    ]


@pytest.mark.parametrize("spec", ["null", "[]", "text"])
def test_a_spec_that_is_none(spec: str) -> None:
    for kind in ("VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry"):
        text = (
            f"apiVersion: networking.istio.io/v1\nkind: {kind}\n"
            f"metadata: {{name: x}}\nspec: {spec}\n"
        )
        assert len(translate(text).errors) == 1


def test_a_document_given_twice_is_named() -> None:
    made = translate(service("a"), service("a"))
    assert "repeated-document" in made.codes()


@pytest.mark.parametrize(
    ("export", "caller", "seen"),
    [
        ("", "other", True),
        ('exportTo: ["*"]', "other", True),
        ('exportTo: ["."]', "other", False),
        ('exportTo: ["."]', "default", True),
        ("exportTo: [other]", "other", True),
        ("exportTo: [other]", "default", False),
        ('exportTo: [".", other]', "default", True),
    ],
)
def test_export(export: str, caller: str, seen: bool) -> None:
    vs = virtual_service("vs", "[x.test]", to("x.test"), more=export)
    assert (translate(vs, namespace=caller).host("x.test") is not None) is seen


@pytest.mark.parametrize("words", ['["~"]', '["*", "."]', "[UP]"])
def test_bad_export(words: str) -> None:
    assert translate(virtual_service("vs", "[a]", to("a"), more=f"exportTo: {words}")).errors


def test_the_example_of_the_manual_does_what_it_says() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "istio.md").read_text()
    example = manual.split("```yaml\n")[1].split("```")[0]
    made = translate(example)
    assert (made.errors, made.warnings) == ([], [])
    reviews = "reviews.default.svc.cluster.local"
    assert made.targets("reviews", 9080, 0) == {f"9080|v2|{reviews}": 1}
    assert made.targets("reviews", 9080, 1) == {f"9080|v1|{reviews}": 90, f"9080|v2|{reviews}": 10}
    assert made.addresses(f"9080|v1|{reviews}") == ["127.0.0.1:9081"]
    assert made.addresses(f"9080|v2|{reviews}") == ["127.0.0.1:9082"]
