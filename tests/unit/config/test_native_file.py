"""The native file as a whole: documents, names, hosts, ports, references; errors with places."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.config import load_documents, load_paths, native_values
from meshclient.config.native_fields import REQUIRED, SECTIONS
from meshclient.config.reader import Reader
from meshclient.errors import ConfigError
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    Locality,
    RegistrySource,
    StaticSource,
)
from meshclient.model.routes import ForwardAction, Route
from meshclient.model.snapshot import ANY_PORT, MeshConfig
from meshclient.model.source import NOT_HONOURED

DOCS = Path(__file__).parents[3] / "docs" / "policy-file.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)


def config(**services: Any) -> MeshConfig:
    return load_documents([{"version": 1, "services": services}])


def errors(*documents: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_documents(list(documents))  # type: ignore[arg-type]
    return [str(d) for d in caught.value.diagnostics if d.severity == "error"]


def service_errors(**services: Any) -> list[str]:
    return errors({"version": 1, "services": services})


def routes(loaded: MeshConfig, port: int = ANY_PORT, host: int = 0) -> tuple[Route, ...]:
    return loaded.route_configurations[port].virtual_hosts[host].routes


def test_the_smallest_file() -> None:
    loaded = config(reviews={"endpoints": ["127.0.0.1:9081"]})
    (host,) = loaded.route_configurations[ANY_PORT].virtual_hosts
    assert (host.name, host.domains) == ("reviews", ("reviews",))
    (route,) = host.routes
    assert isinstance(route.action, ForwardAction)
    assert [c.cluster for c in route.action.clusters] == ["reviews"]
    assert loaded.clusters["reviews"] == Cluster(
        "reviews", "reviews", endpoints=(Endpoint("127.0.0.1", 9081),)
    )
    assert loaded.diagnostics == ()
    assert loaded.outbound == "allow_any"


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_documentation_loads(example: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(example)
    loaded = load_paths(tmp_path)
    assert loaded.clusters
    assert {d.code for d in loaded.diagnostics} <= {NOT_HONOURED, "missing-file"}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6


def test_sections_ask_for_exactly_the_fields_of_the_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables behind the JSON Schema and the reader cannot drift apart."""
    asked: dict[str, set[str]] = {}

    def listen(r: Reader, section: str) -> None:
        if r.is_mapping:
            asked.setdefault(section, set()).update(r._asked)

    monkeypatch.setattr(native_values, "section_listeners", [listen])
    for example in EXAMPLES:
        (tmp_path / "policy.yaml").write_text(example)
        load_paths(tmp_path)
    config(
        a={
            "eureka": {"app": "A"},
            "tls": {"mode": "simple", "subject_alt_names": [{"suffix": ".test"}]},
            "routes": [
                {"to": "a", "rewrite": {"host": {"endpoint": True}}, "hash_on": {"query": "q"}},
            ],
        }
    )
    aliases = {"fallback": {"true"}, "retries": {"true"}, "route_retries": {"true"}}
    assert asked.keys() == SECTIONS.keys()
    for section, fields in SECTIONS.items():
        assert asked[section] - aliases.get(section, set()) == set(fields), section


def test_required_fields_exist_in_the_tables() -> None:
    for section, names in REQUIRED.items():
        assert set(names) <= set(SECTIONS[section])


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"services": {}}, '"version" is missing (add version: 1)'),
        ({"version": 2}, "unknown version the number 2"),
        ({"version": "1"}, 'unknown version the text "1"'),
        ({"version": True}, "unknown version the boolean true"),
        ({"version": 1, "service": {}}, '(did you mean "services"?)'),
        ({"version": 1, "outbound": "deny"}, "known are allow_any, registry_only"),
        ({"version": 1, "services": []}, "services: expected a mapping, found a list"),
        ({"version": 1, "services": {"a": None}}, "services.a: no endpoints"),
        ({"version": 1, "services": {"a": {}}}, "services.a: no endpoints"),
        ({"version": 1, "services": {"a": 5}}, "services.a: expected a mapping"),
        ({"version": 1, "node": {"namespase": "x"}}, '(did you mean "namespace"?)'),
        ({"version": 1, "node": {"locality": "a/b/c/d"}}, "at most three parts"),
        ({"version": 1, "node": {"labels": {"v": 1}}}, "expected a text, found the number 1"),
    ],
)
def test_mistakes_at_the_top(document: dict[str, object], expected: str) -> None:
    found = errors(document)
    assert len(found) == 1
    assert expected in found[0]


def test_node_and_outbound() -> None:
    document = {
        "version": 1,
        "outbound": "registry_only",
        "node": {"namespace": "x", "locality": "eu/b", "labels": {"app": "w"}, "domain": "d"},
    }
    loaded = load_documents([document])
    assert loaded.outbound == "registry_only"
    assert loaded.node.locality == Locality("eu", "b")
    assert (loaded.node.namespace, loaded.node.domain) == ("x", "d")
    assert loaded.node.labels == (("app", "w"),)
    again = load_documents([document], namespace="y", outbound="allow_any")
    assert (again.node.namespace, again.outbound) == ("y", "allow_any")
    assert again.node.labels == (("app", "w"),)


def test_native_documents_add_up_and_may_refer_to_each_other() -> None:
    first = {"version": 1, "services": {"a": {"endpoints": ["h:1"], "routes": [{"to": "b/v1"}]}}}
    second = {
        "version": 1,
        "outbound": "registry_only",
        "services": {
            "b": {
                "endpoints": [{"address": "h:2", "labels": {"v": "1"}}],
                "subsets": {"v1": {"labels": {"v": "1"}}},
            }
        },
    }
    loaded = load_documents([first, second])
    assert set(loaded.clusters) == {"a", "b", "b/v1"}
    assert loaded.outbound == "registry_only"


def test_what_may_stand_once_stands_once() -> None:
    document = {"version": 1, "node": {}, "outbound": "allow_any"}
    named = {**document, "services": {"a": {"endpoints": ["h:1"]}}}
    found = errors(named, named)
    assert any("service a is already given" in e for e in found)
    assert any("node is already given" in e for e in found)
    assert any("outbound is already given" in e for e in found)


def test_hosts_are_domains_in_lower_case() -> None:
    loaded = config(
        Reviews={"endpoints": ["h:1"], "hosts": ["R.Example.com", "*.x.com", "api.*", "[::1]"]}
    )
    (host,) = loaded.route_configurations[ANY_PORT].virtual_hosts
    assert host.domains == ("reviews", "r.example.com", "*.x.com", "api.*", "[::1]")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviews:9080", 'write "reviews", and port: 9080'),
        ("http://reviews", "not a URL"),
        ("a b", "'a b' is not a host name"),
        ("a/b", "is not a host name"),
        ("a*b", "is not a host name"),
        ("", "is not a host name"),
        ("1.2.3.999", "is not a host name"),
    ],
)
def test_names_that_are_no_hosts(name: str, expected: str) -> None:
    assert any(expected in e for e in service_errors(**{name: {"endpoints": ["h:1"]}}))


def test_one_host_belongs_to_one_service() -> None:
    (found,) = service_errors(
        a={"endpoints": ["h:1"], "hosts": ["X"]}, b={"endpoints": ["h:1"], "hosts": ["x"]}
    )
    assert 'the host "x" already belongs to service a' in found


def test_the_same_host_on_different_ports() -> None:
    loaded = config(
        a={"endpoints": ["h:1"], "port": 80},
        b={"endpoints": ["h:2"], "port": 81, "hosts": ["a"]},
        c={"endpoints": ["h:3"]},
    )
    hosts = {
        port: [h.name for h in table.virtual_hosts]
        for port, table in loaded.route_configurations.items()
    }
    assert hosts == {80: ["a", "c"], 81: ["b", "c"], ANY_PORT: ["c"]}
    assert loaded.clusters["a"].port == 80


def test_a_port_of_a_match_makes_a_table_of_that_port() -> None:
    loaded = config(
        a={
            "endpoints": ["h:1"],
            "routes": [{"name": "p", "match": {"port": 81}}, {"name": "q", "match": {"path": "/"}}],
        },
        b={"endpoints": ["h:1"]},
    )
    names = {p: [r.name for r in routes(loaded, p)] for p in loaded.route_configurations}
    assert names == {ANY_PORT: ["q", "(default)"], 81: ["p", "q", "(default)"]}
    assert [h.name for h in loaded.route_configurations[81].virtual_hosts] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:80", Endpoint("127.0.0.1", 80)),
        ("[::1]:80", Endpoint("::1", 80)),
        ("[FD00::0:1]:80", Endpoint("fd00::1", 80)),
        ("host.example.com:65535", Endpoint("host.example.com", 65535)),
        ("under_score:1", Endpoint("under_score", 1)),
        ("unix:///run/a.sock", Endpoint("unix:///run/a.sock", 0)),
        ("unix:/run/a.sock", Endpoint("unix:///run/a.sock", 0)),
    ],
)
def test_addresses(text: str, endpoint: Endpoint) -> None:
    assert config(a={"endpoints": [text]}).clusters["a"].endpoints == (endpoint,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", '(write "host:80")'),
        ("host:", '(write "host:80")'),
        ("http://host:80/x", '(write "host:80")'),
        ("host:0", '"0" is not a port'),
        ("host:65536", "is not a port"),
        ("host:http", "is not a port"),
        ("host:99999999999999999999", "is not a port"),
        ("::1:80", '(write "[::1]:80")'),
        ("[::g]:80", "is not an IPv6 address"),
        ("1.2.3:80", "is not a host name or IP address"),
        ("a b:80", "is not a host name"),
        ("-x:80", "is not a host name"),
        (":80", "is not a host name"),
        ("unix://relative", "unix:///absolute/path"),
        ("unix:///" + "x" * 200, "at most 107 bytes"),
    ],
)
def test_bad_addresses(text: str, expected: str) -> None:
    (found,) = service_errors(a={"endpoints": [text]})
    assert "services.a.endpoints[0]" in found
    assert expected in found


def test_endpoint_details() -> None:
    item = {
        "address": "h:1",
        "weight": 3,
        "priority": 1,
        "labels": {"b": "2", "a": "1"},
        "locality": "eu/b/r1",
        "hostname": "h.internal",
    }
    (endpoint,) = config(a={"endpoints": [item]}).clusters["a"].endpoints
    labels = (("a", "1"), ("b", "2"))
    place = Locality("eu", "b", "r1")
    assert endpoint == Endpoint("h", 1, 3, "h.internal", labels, place, 1)


def test_dns_srv_and_registries() -> None:
    loaded = config(
        a={"dns": "x:1"},
        b={"dns": ["x:1", {"address": "y:2", "weight": 2}]},
        c={"dns": {"names": "x:1", "mode": "logical"}},
        d={"srv": "_http._tcp.x"},
        e={"kubernetes": {"service": "s", "port": 80}},
        f={"consul": {"service": "s", "tags": ["t", "u"]}},
    )
    x, y = Endpoint("x", 1), Endpoint("y", 2, 2)
    found = {name: cluster.discovery for name, cluster in loaded.clusters.items()}
    assert found == {
        "a": DnsSource((x,)),
        "b": DnsSource((x, y)),
        "c": DnsSource((x,), "logical"),
        "d": DnsSource((Endpoint("_http._tcp.x", 0),), "srv"),
        "e": RegistrySource(
            "kubernetes", (("namespace", "default"), ("port", "80"), ("service", "s"))
        ),
        "f": RegistrySource("consul", (("service", "s"), ("tags", "t,u"))),
    }
    warned = [d for d in loaded.diagnostics if d.severity == "warning"]
    assert [d.code for d in warned] == [NOT_HONOURED, NOT_HONOURED]
    assert loaded.clusters["f"].not_honoured == (warned[1],)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"dns": "x:1", "srv": "y"}, 'give only one of "dns" and "srv"'),
        ({"dns": "unix:///x"}, "unix:///absolute/path"),
        ({"dns": {"names": ["a:1", "b:1"], "mode": "logical"}}, "takes one name"),
        ({"dns": {"mode": "strict"}}, '"names" is missing'),
        ({"srv": "a:1"}, "an SRV name has no port"),
        ({"kubernetes": {"port": 1}}, '"service" is missing'),
        ({"endpoints": "h:1"}, "expected a list"),
        ({"endpoints": ["h:1"], "protocol": "http3"}, "known are h2, http1"),
        ({"endpoints": ["h:1"], "port": 0}, "0 is less than 1"),
        ({"endpoints": [{"addres": "h:1"}]}, '"address" is missing'),
        ({"endpoints": [{"address": "h:1", "weight": 0}]}, "0 is less than 1"),
        ({"routes": [{"to": "a"}]}, "service a has no endpoints of its own"),
        ({"routes": [{}]}, '"to" is missing, and a has no endpoints'),
        ({"routes": [{"respond": {"status": 200}}], "subsets": {}}, "subsets need endpoints"),
        ({"endpoints": ["h:1"], "subsets": {"v1": {}}}, '"labels" is missing'),
        ({"endpoints": ["h:1"], "subsets": {"a/b": {"labels": {}}}}, "is not a subset name"),
    ],
)
def test_mistakes_in_services(service: dict[str, Any], expected: str) -> None:
    assert any(expected in e for e in service_errors(a=service))


def test_subsets_choose_endpoints_by_label() -> None:
    loaded = config(
        a={
            "endpoints": [
                {"address": "h:1", "labels": {"v": "1", "x": "y"}},
                {"address": "h:2", "labels": {"v": "2"}},
            ],
            "load_balancing": "random",
            "limits": {"max_retries": 2},
            "retries": {"budget": {"percent": 50}},
            "subsets": {
                "v1": {"labels": {"v": "1"}},
                "v2": {"labels": {"v": "2"}, "load_balancing": "round_robin"},
                "none": {"labels": {"v": "3"}},
            },
        }
    )
    got = {n: [e.port for e in c.endpoints] for n, c in loaded.clusters.items()}
    assert got == {"a": [1, 2], "a/v1": [1], "a/v2": [2], "a/none": []}
    policies = {n: c.policy.load_balancing.policy for n, c in loaded.clusters.items()}
    assert policies["a/v1"] == "random"
    assert policies["a/v2"] == "round_robin"
    budget = loaded.clusters["a/v2"].policy.limits.retry_budget
    assert budget is not None
    assert budget.percent == 50
    assert loaded.clusters["a/v1"].labels == (("v", "1"),)
    (warning,) = loaded.diagnostics
    assert "no endpoint carries these labels" in warning.message


def test_subsets_of_dns_names() -> None:
    loaded = config(
        a={
            "dns": [{"address": "x:1", "labels": {"v": "1"}}, "y:1"],
            "subsets": {"v1": {"labels": {"v": "1"}}},
        }
    )
    source = loaded.clusters["a/v1"].discovery
    assert isinstance(source, DnsSource)
    assert [t.address for t in source.targets] == ["x"]
    assert loaded.clusters["a"].discovery != StaticSource()


def test_a_service_without_endpoints_that_only_routes() -> None:
    loaded = config(
        front={"routes": [{"to": {"a": 1, "b": 1}}]}, a={"endpoints": ["h:1"]}, b={"dns": "h:2"}
    )
    assert set(loaded.clusters) == {"a", "b"}
    (route,) = routes(loaded)
    assert route.name == "routes[0]"


def test_all_errors_at_once_each_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: 1\n"
        "services:\n"
        "  reviews:\n"
        "    endpoints: [127.0.0.1]\n"
        "    timout: 2s\n"
        "    retries: {attempts: -1, on: [conect-failure]}\n"
        "    routes:\n"
        "    - match: {regex: '('}\n"
        "      to: v9\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_paths(path)
    places = [(d.source.line, d.source.column, d.field) for d in caught.value.diagnostics]
    assert places == [
        (4, 17, "services.reviews.endpoints[0]"),
        (5, 5, "services.reviews.timout"),
        (6, 25, "services.reviews.retries.attempts"),
        (6, 34, "services.reviews.retries.on[0]"),
        (8, 22, "services.reviews.routes[0].match.regex"),
        (9, 11, "services.reviews.routes[0].to"),
    ]
    text = str(caught.value)
    assert f"{path}:5:5: error: services.reviews.timout: unknown field" in text
    assert '(did you mean "connect-failure"?)' in text


words = st.sampled_from(
    sorted({key for fields in SECTIONS.values() for key in fields} | {"a", "b/v1", "h:1"})
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=6)
garbage = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=30,
)


@settings(deadline=None, max_examples=300)
@given(garbage, garbage)
def test_garbage_raises_nothing_but_config_error(service: Any, route: Any) -> None:
    whole = {"endpoints": ["h:1"], "routes": [route]}
    for document in (
        service,
        {"version": 1, "services": {"a": service}},
        {"version": 1, "node": service, "services": {"a": whole}},
    ):
        try:
            load_documents([document])
        except ConfigError as error:
            assert error.diagnostics  # noqa: PT017
