"""Which virtual host serves an authority. Expectations observed on Envoy 1.40."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_support import to

from meshclient.model.routes import Route, RouteConfiguration, VirtualHost
from meshclient.routing import RouteTable

HOSTS = {
    "exact": ("a.test", "b.test:80"),
    "suf": ("*.a.test", "*a.test"),
    "suf2": ("*-x.a.test",),
    "pre": ("foo.*", "foo.ba*"),
    "p80": ("*:8080",),
    "v6": ("[::1]",),
    "all": ("*",),
}


def table(hosts: dict[str, tuple[str, ...]], ignore_port: bool) -> RouteTable:
    virtual = tuple(VirtualHost(n, d, (Route(to()),)) for n, d in hosts.items())
    return RouteTable(RouteConfiguration("rc", virtual, ignore_port=ignore_port))


def found(table: RouteTable, authority: str) -> str | None:
    host = table.find_host(authority)
    return None if host is None else host.virtual_host.name


@pytest.mark.parametrize(
    ("authority", "with_port", "without_port"),
    [
        ("a.test", "exact", "exact"),
        ("A.Test", "exact", "exact"),
        ("a.test:80", "all", "exact"),
        ("b.test", "all", "all"),
        ("b.test:80", "exact", "all"),
        ("x.a.test", "suf", "suf"),
        ("xa.test", "suf", "suf"),
        (".a.test", "suf", "suf"),
        ("q-x.a.test", "suf2", "suf2"),
        ("-x.a.test", "suf", "suf"),
        ("foo.", "all", "all"),
        ("foo.x", "pre", "pre"),
        ("foo.bar", "pre", "pre"),
        ("foo.ba", "pre", "pre"),
        ("foo.example:80", "pre", "pre"),
        ("c.test:8080", "p80", "all"),
        (":8080", "all", "all"),
        ("[::1]", "v6", "v6"),
        ("[::1]:80", "all", "v6"),
        ("a.test.", "all", "all"),
        ("a.test:", "all", "exact"),
        ("::1", "all", "all"),
        ("a.test:abc", "all", "exact"),
    ],
)
def test_order_and_ports(authority: str, with_port: str, without_port: str) -> None:
    assert found(table(HOSTS, ignore_port=False), authority) == with_port
    assert found(table(HOSTS, ignore_port=True), authority) == without_port


def test_missing_authority_reaches_only_a_lone_catch_all() -> None:
    assert found(table({"all": ("*",)}, True), "") == "all"
    assert found(table({"all": ("*",), "a": ("a",)}, True), "") is None


def test_unknown_host_without_catch_all() -> None:
    assert found(table({"a": ("a.test",)}, True), "b.test") is None


def test_first_owner_of_a_domain_keeps_it() -> None:
    assert found(table({"one": ("a", "*"), "two": ("a", "*")}, True), "a") == "one"
    assert found(table({"one": ("a", "*"), "two": ("a", "*")}, True), "z") == "one"


def test_only_ascii_letters_are_lowered() -> None:
    assert found(table({"a": ("é.test",)}, True), "é.TEST") == "a"
    assert found(table({"a": ("é.test",)}, True), "É.test") is None


def test_repr() -> None:
    compiled = table(HOSTS, True)
    assert repr(compiled) == "<RouteTable rc virtual_hosts=7>"
    assert repr(compiled.find_host("a.test")) == "<CompiledHost exact routes=1>"


LABELS = st.text(alphabet="ab.", min_size=1, max_size=4)
DOMAINS = st.one_of(LABELS, LABELS.map("*{}".format), LABELS.map("{}*".format), st.just("*"))


def scan(domains: list[str], host: str) -> str | None:
    """The rules, written as the specification words them."""
    if host in domains:
        return host
    suffixes = [d for d in domains if d[0] == "*" and d != "*"]
    for domain in sorted(suffixes, key=len, reverse=True):
        if host.endswith(domain[1:]) and len(host) > len(domain) - 1:
            return domain
    prefixes = [d for d in domains if d[-1] == "*" and d != "*"]
    for domain in sorted(prefixes, key=len, reverse=True):
        if host.startswith(domain[:-1]) and len(host) > len(domain) - 1:
            return domain
    return "*" if "*" in domains else None


@given(st.lists(DOMAINS, unique=True, max_size=12), LABELS)
def test_tables_equal_the_plain_rules(domains: list[str], host: str) -> None:
    assert found(table({d: (d,) for d in domains}, False), host) == scan(domains, host)
