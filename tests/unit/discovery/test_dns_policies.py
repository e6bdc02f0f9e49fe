"""The pure parts: resolv.conf, hosts, search plan, refresh timer, order of addresses."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.discovery import watched_file
from meshclient.discovery.combine import combine
from meshclient.discovery.dns_settings import DnsSettings, ResolvConf, parse_resolv_conf
from meshclient.discovery.eyeballs import has_route, interleave, sorted_families
from meshclient.discovery.hosts_file import parse_hosts
from meshclient.discovery.refresh import RefreshTimer
from meshclient.discovery.search import candidates, is_valid
from meshclient.discovery.servers import PENALTY_S, ServerOrder
from meshclient.discovery.watched_file import WatchedFile
from meshclient.model.endpoint import Endpoint, EndpointSet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ResolvConf()),
        ("nameserver 10.0.0.1\nnameserver\t::1\n", ResolvConf((("10.0.0.1", 53), ("::1", 53)))),
        (
            "nameserver [::1]:5353\nnameserver [10.0.0.1]\nnameserver bogus\nnameserver [1.1.1.1]:0"
            "\n",
            ResolvConf((("::1", 5353), ("10.0.0.1", 53))),
        ),
        ("nameserver 10.0.0.1\n" * 5, ResolvConf((("10.0.0.1", 53),) * 3)),
        ("domain a.test\nsearch b.test c.test.", ResolvConf(search=("b.test", "c.test"))),
        ("search b.test c.test\ndomain a.test\n", ResolvConf(search=("a.test",))),
        ("search .\n", ResolvConf(search=("",))),
        ("options ndots:5 timeout:2 attempts:4 rotate", ResolvConf(
            ndots=5, timeout_s=2.0, attempts=4, rotate=True)),
        ("options ndots:99 timeout:99 attempts:99", ResolvConf(
            ndots=15, timeout_s=30.0, attempts=5)),
        ("options timeout:0 attempts:0 ndots:x edns0 unheard-of:3", ResolvConf(
            timeout_s=1.0, attempts=1)),
        ("options use-vc\noptions no-aaaa no-tld-query", ResolvConf(
            use_tcp=True, no_aaaa=True, no_tld_query=True)),
        ("# search a\n; search b\n search c\nsearchd e", ResolvConf()),
    ],
)  # fmt: skip
def test_resolv_conf(text: str, expected: ResolvConf) -> None:
    assert parse_resolv_conf(text, {}, "host") == expected


def test_resolv_conf_environment_and_host_name() -> None:
    assert parse_resolv_conf("", {}, "host.corp.test").search == ("corp.test",)
    environ = {"LOCALDOMAIN": "x.test y.test", "RES_OPTIONS": "ndots:3"}
    conf = parse_resolv_conf("search a.test\noptions ndots:1 rotate", environ, "h.corp.test")
    assert (conf.search, conf.ndots, conf.rotate) == (("x.test", "y.test"), 3, True)
    assert parse_resolv_conf("search a.test", {"LOCALDOMAIN": ""}, "h").search == ()


@given(st.text(alphabet="nameservrchoptid:.0123456789#; \n\t[]-", max_size=200))
def test_resolv_conf_never_raises_and_stays_in_range(text: str) -> None:
    conf = parse_resolv_conf(text, {}, "h")
    assert 1 <= len(conf.nameservers) <= 3
    assert 0 <= conf.ndots <= 15
    assert 1 <= conf.timeout_s <= 30
    assert 1 <= conf.attempts <= 5


@pytest.mark.parametrize(
    "bad",
    [
        {"nameservers": (("dns.test", 53),)},
        {"nameservers": (("127.0.0.1", 0),)},
        {"ndots": 16},
        {"attempts": 0},
        {"timeout_s": 0.0},
        {"jitter": 2.0},
        {"min_refresh_s": 301.0},
        {"max_endpoints": 0},
        {"family": "ipx"},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        DnsSettings(**bad)  # type: ignore[arg-type]


def test_settings_override_the_file_and_the_environment_names_the_files() -> None:
    settings = DnsSettings(nameservers=(("10.0.0.9", 5353),), search=(), ndots=2)
    conf = settings.over(ResolvConf(search=("a",), ndots=5, rotate=True))
    assert conf == ResolvConf((("10.0.0.9", 5353),), search=(), ndots=2, rotate=True)
    environ = {"MESHCLIENT_RESOLV_CONF": "/a", "MESHCLIENT_HOSTS_FILE": "/b"}
    assert settings.resolv_conf_path(environ) == "/a"
    assert settings.hosts_path(environ) == "/b"
    assert settings.resolv_conf_path({}) == "/etc/resolv.conf"
    assert DnsSettings(hosts_file="/c").hosts_path(environ) == "/c"


def test_hosts() -> None:
    text = "127.0.0.1 localhost\n10.0.0.1\tWeb web2 # web3\n2001:DB8::1 web.\n#1.1.1.1 no\n"
    text += "x y\n9.9.9.9\n"
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1",),
        "web": ("10.0.0.1", "2001:db8::1"),
        "web2": ("10.0.0.1",),
    }


def test_watched_file_follows_replacement_deletion_and_symlinks(tmp_path: Path) -> None:
    path, reads = tmp_path / "f", []
    file = WatchedFile(str(path), lambda text: reads.append(text) or text)
    assert file.get() == ""
    path.write_text("one")
    assert (file.get(), file.get()) == ("one", "one")
    (tmp_path / "new").write_text("two")
    os.replace(tmp_path / "new", path)
    assert file.get() == "two"
    path.unlink()
    assert file.get() == ""
    (tmp_path / "target").write_bytes(b"\xff three")
    path.symlink_to(tmp_path / "target")
    assert file.get() == "\ufffd three"
    assert len(reads) == 5


def test_a_huge_file_is_cut_at_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched_file, "MAX_BYTES", 10)
    path = tmp_path / "f"
    path.write_text("one\ntwo\nthree\n")
    assert WatchedFile(str(path), str).get() == "one\ntwo"
    assert "only the first 10 bytes" in caplog.text


@pytest.mark.parametrize(
    ("name", "conf", "expected"),
    [
        ("web", ResolvConf(search=("a.test", "")), ["web.a.test.", "web."]),
        ("web", ResolvConf(search=("", "a.test")), ["web.", "web.a.test."]),
        ("web", ResolvConf(search=("a.test",), no_tld_query=True), ["web.a.test."]),
        ("web", ResolvConf(no_tld_query=True), ["web."]),
        ("a.b", ResolvConf(search=("x",), ndots=2, no_tld_query=True), ["a.b.x.", "a.b."]),
        ("web", ResolvConf(search=("a" * 64, "b.test")), ["web.b.test.", "web."]),
        ("a..b", ResolvConf(search=("x",)), []),
    ],
)
def test_search_plan(name: str, conf: ResolvConf, expected: list[str]) -> None:
    assert [c.name for c in candidates(name, conf)] == expected


LABEL = st.text(alphabet="abc-_1", min_size=1, max_size=70)


@given(
    st.lists(LABEL, min_size=1, max_size=6).map(".".join),
    st.booleans(),
    st.lists(st.lists(LABEL, max_size=3).map(".".join), max_size=5),
    st.integers(0, 15),
)
def test_search_plan_properties(name: str, absolute: bool, domains: list[str], ndots: int) -> None:
    """Only valid absolute names, none twice; the name itself is one of them, exactly once."""
    conf = ResolvConf(search=tuple(domains), ndots=ndots)
    plan = candidates(name + "." * absolute, conf)
    names = [c.name for c in plan]
    assert all(is_valid(n) and n.endswith(".") for n in names)
    assert len(set(names)) == len(names)
    assert [c.name for c in plan if c.as_is] == ([f"{name}."] if is_valid(f"{name}.") else [])
    if plan and (absolute or name.count(".") >= ndots):
        assert plan[0].as_is
    if absolute:
        assert len(plan) <= 1


def timer(rand: float = 0.0, **options: float) -> RefreshTimer:
    return RefreshTimer(DnsSettings(**options), lambda: rand)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "ttl_s", "rand", "expected"),
    [
        (True, 0, 0.0, 1.0),
        (True, 20, 0.0, 20.0),
        (True, 20, 0.5, 21.0),
        (True, 86_400, 0.0, 300.0),
        (True, float("inf"), 0.0, 300.0),
        (False, 0, 0.0, 1.0),
        (False, 5, 0.0, 5.0),
        (False, 3600, 0.0, 30.0),
    ],
)
def test_refresh_follows_the_ttl(found: bool, ttl_s: float, rand: float, expected: float) -> None:
    assert timer(rand).next_s(found=found, failed=False, ttl_s=ttl_s) == expected


def test_failures_back_off_to_the_cap_and_start_over_after_a_success() -> None:
    policy = timer()
    delays = [policy.next_s(found=False, failed=True, ttl_s=0) for _ in range(8)]
    assert delays == [0.25, 0.5, 1, 2, 4, 8, 15, 15]
    policy.next_s(found=True, failed=False, ttl_s=60)
    assert policy.next_s(found=False, failed=True, ttl_s=0) == 0.25


def test_a_half_failure_takes_the_earlier_delay() -> None:
    policy = timer()
    delays = [policy.next_s(found=True, failed=True, ttl_s=2) for _ in range(5)]
    assert delays == [0.25, 0.5, 1, 2, 2]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1e9)), max_size=60),
    st.floats(0, 1, exclude_max=True),
)
def test_every_delay_is_bounded(history: list[tuple[bool, bool, float]], rand: float) -> None:
    policy = timer(rand)
    for found, failed, ttl_s in history:
        delay = policy.next_s(found=found, failed=failed, ttl_s=ttl_s)
        assert 0.25 <= delay <= 330


def test_server_order_puts_silent_servers_last_for_a_while() -> None:
    now = 0.0
    policy = ServerOrder(lambda: now)
    a, b, c = ("10.0.0.1", 53), ("10.0.0.2", 53), ("10.0.0.3", 53)
    policy.silent(a)
    assert policy.order((a, b, c), False) == (b, c, a)
    policy.answered(a)
    assert policy.order((a, b, c), False) == (a, b, c)
    policy.silent(b)
    now = PENALTY_S + 1
    assert policy.order((a, b, b), False) == (a, b)


V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


@given(st.lists(V6, unique=True, max_size=8), st.lists(V4, unique=True, max_size=8))
def test_interleave_alternates_while_both_families_last(v6: list[str], v4: list[str]) -> None:
    order = interleave(v6, v4)
    assert sorted(order) == sorted(v6 + v4)
    shared = 2 * min(len(v6), len(v4))
    assert all((":" in a) == (i % 2 == 0) for i, a in enumerate(order[:shared]))
    assert [a for a in order if ":" in a] == v6


@given(st.lists(V4 | V6, unique=True, max_size=12), st.randoms(use_true_random=False))
def test_sorted_families_forget_the_order_of_the_answer(addresses: list[str], rng: object) -> None:
    shuffled = list(addresses)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    v6, v4 = sorted_families(addresses)
    assert sorted_families(shuffled) == (v6, v4)
    assert v4 == sorted(v4, key=ipaddress.ip_address)


def test_has_route() -> None:
    assert has_route("127.0.0.1")
    assert not has_route("fe80::1%no-such-interface")


FAILED = EndpointSet((), "failed", "x")
A, B = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], EndpointSet((), "ready")),
        ([EndpointSet()], EndpointSet()),
        ([EndpointSet((A,), "ready"), EndpointSet()], EndpointSet((A,), "ready")),
        ([EndpointSet((A,), "ready"), EndpointSet((A, B), "ready")], EndpointSet((A, B), "ready")),
        ([EndpointSet((A,), "ready"), FAILED], EndpointSet((A,), "stale", "x")),
        ([EndpointSet((A,), "stale", "x"), EndpointSet()], EndpointSet((A,), "stale", "x")),
        ([FAILED, EndpointSet()], EndpointSet((), "pending", "x")),
        ([FAILED, EndpointSet((), "failed", "y")], EndpointSet((), "failed", "x; y")),
    ],
)
def test_combine(parts: list[EndpointSet], expected: EndpointSet) -> None:
    assert combine(parts) == expected
