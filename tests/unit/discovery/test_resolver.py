"""The resolver: servers, retries, truncation, chains, search list."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from scripted_dns import ScriptedDns

from meshclient.discovery.answers import ADDRESS_KINDS, LookupResult, Records
from meshclient.discovery.dns_settings import DnsSettings
from meshclient.discovery.resolver import Resolver

FIRST, SECOND = ("127.0.0.1", 53), ("127.0.0.2", 53)


def look_up(
    dns: ScriptedDns,
    *names: str,
    conf: str = "",
    environ: Mapping[str, str] | None = None,
    clock: float = 0.0,
    kinds: tuple[str, ...] = ("A",),
    **options: object,
) -> list[LookupResult]:
    options.setdefault("nameservers", (FIRST, SECOND))

    async def all_of_them() -> list[LookupResult]:
        settings = DnsSettings(resolv_conf=conf or "/nonexistent", **options)  # type: ignore[arg-type]
        resolver = Resolver(settings, clock=lambda: clock, exchange=dns, environ=environ or {})
        async with asyncio.timeout(10):
            return [await resolver.lookup(name, kinds) for name in names]  # type: ignore[arg-type]

    return asyncio.run(all_of_them())


def records(result: LookupResult, kind: str = "A") -> Records:
    part = result.parts[kind]  # type: ignore[index]
    assert isinstance(part, Records), part
    return part


def test_the_second_server_takes_over_and_a_dead_one_goes_to_the_end() -> None:
    dns = ScriptedDns({("a.", "A"): [60, "10.0.0.1"], ("b.", "A"): [60, "10.0.0.2"]})
    dns.servers[FIRST] = "timeout"
    results = look_up(dns, "a.", "b.")
    assert [records(r).addresses for r in results] == [("10.0.0.1",), ("10.0.0.2",)]
    assert dns.asked_servers == [FIRST, SECOND, SECOND]
    assert records(results[0]).server == "127.0.0.2:53"


def test_silence_is_tried_again_but_a_refusal_is_not() -> None:
    dns = ScriptedDns()
    dns.servers = {FIRST: "timeout", SECOND: "SERVFAIL"}
    failure = look_up(dns, "a.", attempts=3)[0].failure
    assert failure is not None
    assert failure.text == "a. A: 127.0.0.1:53: no answer within 5 s; 127.0.0.2:53: SERVFAIL"
    assert dns.asked_servers.count(FIRST) == 3
    assert dns.asked_servers.count(SECOND) == 1


def test_rotate_spreads_the_queries() -> None:
    dns = ScriptedDns({("a.", "A"): [60, "10.0.0.1"]})
    look_up(dns, "a.", "a.", "a.", rotate=True)
    assert dns.asked_servers == [FIRST, SECOND, FIRST]


def test_a_truncated_answer_is_fetched_over_tcp() -> None:
    dns = ScriptedDns({("a.", "A"): [60, "10.0.0.1"]})
    dns.truncate_udp = True
    assert records(look_up(dns, "a.")[0]).addresses == ("10.0.0.1",)
    assert dns.tcp == [False, True]


def test_use_vc_starts_with_tcp(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("options use-vc\n")
    dns = ScriptedDns({("a.", "A"): [60, "10.0.0.1"]})
    look_up(dns, "a.", conf=str(conf))
    assert dns.tcp == [True]


def test_a_server_without_edns_is_asked_without() -> None:
    dns = ScriptedDns({("a.", "A"): [60, "10.0.0.1"]})
    dns.edns_unknown = True
    assert records(look_up(dns, "a.")[0]).addresses == ("10.0.0.1",)
    assert len(dns.asked) == 2


def test_a_referral_denies_nothing() -> None:
    dns = ScriptedDns({("a.", "A"): [60]})
    dns.lame = True
    failure = look_up(dns, "a.")[0].failure
    assert failure is not None
    assert "lame" in failure.text


def test_a_cname_chain_has_the_smallest_ttl_and_is_asked_on_outside_the_zone() -> None:
    inside = ScriptedDns({("a.", "A"): [30, "CNAME b."], ("b.", "A"): [60, "10.0.0.1"]})
    result = records(look_up(inside, "a.")[0])
    assert (result.addresses, result.ttl_s, len(inside.asked)) == (("10.0.0.1",), 30, 1)

    outside = ScriptedDns({("a.", "A"): [30, "CNAME b.", "stop"], ("b.", "A"): [60, "10.0.0.1"]})
    result = records(look_up(outside, "a.")[0])
    assert (result.addresses, result.ttl_s) == (("10.0.0.1",), 30)
    assert outside.asked == [("a.", "A"), ("b.", "A")]


def test_an_endless_cname_chain_ends() -> None:
    dns = ScriptedDns(
        {("a.", "A"): [30, "CNAME b.", "stop"], ("b.", "A"): [30, "CNAME a.", "stop"]}
    )
    failure = look_up(dns, "a.")[0].failure
    assert failure is not None
    assert "too long" in failure.text
    assert len(dns.asked) < 12


def test_no_aaaa_asks_for_ipv4_only(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("options no-aaaa\n")
    dns = ScriptedDns({("a.", "A"): [60, "10.0.0.1"]})
    assert list(look_up(dns, "a.", conf=str(conf), kinds=ADDRESS_KINDS)[0].parts) == ["A"]


def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nsearch one.test\n")
    dns = ScriptedDns({("a.two.test.", "A"): [60, "10.0.0.1"]})

    async def scenario() -> list[bool]:
        settings = DnsSettings(resolv_conf=str(conf))
        resolver = Resolver(settings, clock=lambda: 0.0, exchange=dns, environ={})
        found = [(await resolver.lookup("a", ("A",))).found]
        conf.write_text("nameserver [127.0.0.2]:5353\nsearch two.test\n")
        return [*found, (await resolver.lookup("a", ("A",))).found]

    assert asyncio.run(scenario()) == [False, True]
    assert dns.asked_servers[-1] == ("127.0.0.2", 5353)


K8S = ("prod.svc.test", "svc.test")


@pytest.mark.parametrize(
    ("name", "ndots", "asked"),
    [
        ("web", 5, ["web.prod.svc.test.", "web.svc.test.", "web."]),
        ("web.prod", 5, ["web.prod.prod.svc.test.", "web.prod.svc.test.", "web.prod."]),
        ("web.prod", 1, ["web.prod.", "web.prod.prod.svc.test.", "web.prod.svc.test."]),
        ("web", 0, ["web.", "web.prod.svc.test.", "web.svc.test."]),
        ("web.", 5, ["web."]),
    ],
)
def test_the_search_list_is_walked_as_glibc_does(name: str, ndots: int, asked: list[str]) -> None:
    dns = ScriptedDns()
    assert not look_up(dns, name, search=K8S, ndots=ndots)[0].found
    assert [n for n, _ in dns.asked] == asked


def test_the_search_list_ends_at_the_first_name_with_records() -> None:
    dns = ScriptedDns({("web.svc.test.", "A"): [60, "10.0.0.1"]})
    result = look_up(dns, "web", search=K8S)[0]
    assert result.name == "web.svc.test."
    assert dns.asked[-1] == ("web.svc.test.", "A")


def test_servfail_goes_on_and_is_remembered() -> None:
    """A later name may answer; when none does, nobody can say that the name is gone."""
    dns = ScriptedDns({("web.prod.svc.test.", "A"): "SERVFAIL"})
    failure = look_up(dns, "web", search=K8S)[0].failure
    assert failure is not None
    assert failure.kind == "servfail"
    assert len({n for n, _ in dns.asked}) == 3
    dns.table["web.svc.test.", "A"] = [60, "10.0.0.1"]
    result = look_up(dns, "web", search=K8S)[0]
    assert result.found
    assert "SERVFAIL" in result.passed_over


def test_a_timeout_ends_the_list_but_the_name_itself_is_tried() -> None:
    dns = ScriptedDns({("web.prod.svc.test.", "A"): "timeout"})
    look_up(dns, "web", search=K8S)
    assert {n for n, _ in dns.asked} == {"web.prod.svc.test.", "web."}


def test_unreachable_servers_end_everything() -> None:
    dns = ScriptedDns()
    dns.servers = {FIRST: "refused-connection", SECOND: "refused-connection"}
    look_up(dns, "web", search=K8S)
    assert {n for n, _ in dns.asked} == {"web.prod.svc.test."}


def test_a_denial_is_asked_again_when_the_first_of_the_list_expires() -> None:
    dns = ScriptedDns({("web.prod.svc.test.", "A"): "NXDOMAIN"})
    assert look_up(dns, "web", search=K8S)[0].ttl_s == 7


def test_a_timeout_of_the_name_itself_does_not_end_the_list() -> None:
    dns = ScriptedDns({("web.prod.", "A"): "timeout"})
    look_up(dns, "web.prod", search=K8S)
    assert dns.asked[-1] == ("web.prod.svc.test.", "A")
