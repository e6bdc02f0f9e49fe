"""Names to endpoints: what each kind of answer does to the endpoint set."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path

import pytest
from scripted_dns import ScriptedDns, Stage

from meshclient.model.endpoint import DnsSource, Endpoint, EndpointSet


def run(scenario: Coroutine[object, object, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


def table(**names: list[object] | str) -> dict[tuple[str, str], list[object] | str]:
    """``web_A=[ttl, address]`` -> ``("web.", "A")``; the other family is an empty answer."""
    found: dict[tuple[str, str], list[object] | str] = {}
    for key, value in names.items():
        name, _, kind = key.rpartition("_")
        name = name.replace("__", ".") + "."
        found[name, kind] = value
        for other in ("A", "AAAA"):
            found.setdefault((name, other), [60])
    return found


def test_strict_reports_every_address_interleaved_in_a_stable_order() -> None:
    """IPv6 first, families alternating, numeric inside a family, whatever the server's order."""

    async def scenario() -> None:
        dns = ScriptedDns(
            table(web_A=[60, "10.0.0.10", "10.0.0.2"], web_AAAA=[60, "2001:db8::2", "2001:db8::1"])
        )
        stage = Stage(dns)
        watch = await stage.watch("web")
        assert watch.addresses == ["2001:db8::1", "10.0.0.2", "2001:db8::2", "10.0.0.10"]
        assert watch.last.state == "ready"
        assert {e.hostname for e in watch.last.endpoints} == {"web"}
        dns.table["web.", "A"] = [60, "10.0.0.2", "10.0.0.10"]
        await stage.refresh()
        assert watch.reports == [watch.last]  # the shuffled answer is the same set
        watch.task.cancel()

    run(scenario())


def test_endpoints_inherit_everything_but_the_address() -> None:
    async def scenario() -> None:
        stage = Stage(ScriptedDns(table(web_A=[60, "10.0.0.1"])))
        target = Endpoint("web", 81, weight=7, labels=(("v", "1"),), priority=2, hostname="h")
        found: list[EndpointSet] = []
        task = asyncio.ensure_future(stage.discovery.watch(DnsSource((target,)), found.append))
        await stage.settle()
        assert found[0].endpoints == (
            Endpoint("10.0.0.1", 81, weight=7, labels=(("v", "1"),), priority=2, hostname="h"),
        )
        task.cancel()

    run(scenario())


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("SERVFAIL", "SERVFAIL"),
        ("REFUSED", "REFUSED"),
        ("timeout", "no answer within 5 s"),
        ("refused-connection", "Connection refused"),
    ],
)
def test_failure_keeps_the_endpoints_as_stale_and_recovers(trouble: str, reason: str) -> None:
    async def scenario() -> None:
        dns = ScriptedDns(table(web_A=[60, "10.0.0.1"]))
        stage = Stage(dns)
        watch = await stage.watch("web")
        dns.servers["127.0.0.1", 53] = trouble
        await stage.refresh()
        assert watch.addresses == ["10.0.0.1"]
        assert watch.last.state == "stale"
        assert "127.0.0.1:53" in watch.last.error
        assert reason in watch.last.error
        await stage.refresh()
        assert len(watch.reports) == 2  # still stale: nothing new to say
        dns.servers.clear()
        await stage.refresh()
        assert (watch.last.state, watch.last.error) == ("ready", "")
        watch.task.cancel()

    run(scenario())


def test_a_name_that_never_resolved_is_failed_and_says_who_and_why() -> None:
    async def scenario() -> None:
        dns = ScriptedDns()
        dns.servers["127.0.0.1", 53] = "SERVFAIL"
        watch = await Stage(dns).watch("web")
        assert watch.last.state == "failed"
        assert watch.last.endpoints == ()
        assert "web." in watch.last.error
        assert "127.0.0.1:53: SERVFAIL" in watch.last.error
        watch.task.cancel()

    run(scenario())


@pytest.mark.parametrize("denial", ["NXDOMAIN", [60]])
def test_an_authoritative_denial_removes_the_endpoints(denial: list[object] | str) -> None:
    async def scenario() -> None:
        dns = ScriptedDns(table(web_A=[60, "10.0.0.1"]))
        stage = Stage(dns)
        watch = await stage.watch("web")
        dns.table["web.", "A"] = dns.table["web.", "AAAA"] = denial
        await stage.refresh()
        assert watch.last.endpoints == ()
        assert watch.last.state == "ready"
        assert "web." in watch.last.error
        assert stage.sleeps[-1] == 7.0  # the SOA's minimum
        watch.task.cancel()

    run(scenario())


def test_logical_takes_a_denial_for_a_failure() -> None:
    """LOGICAL_DNS: an empty answer keeps the endpoint."""

    async def scenario() -> None:
        dns = ScriptedDns(table(web_A=[60, "10.0.0.1"]))
        stage = Stage(dns)
        watch = await stage.watch("web", mode="logical")
        dns.table["web.", "A"] = "NXDOMAIN"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.1"], "stale")
        watch.task.cancel()

    run(scenario())


def test_logical_keeps_its_address_while_it_is_in_the_answer() -> None:
    """The scripted server shuffles its answers, as real ones do."""

    async def scenario() -> None:
        dns = ScriptedDns(table(web_A=[60, "10.0.0.5"]))
        stage = Stage(dns)
        watch = await stage.watch("web", mode="logical")
        dns.table["web.", "A"] = [60, "10.0.0.1", "10.0.0.5", "10.0.0.9"]
        for _ in range(20):
            await stage.refresh()
        assert len(watch.reports) == 2  # the others came along, and no shuffle after that
        assert watch.addresses == ["10.0.0.5"]
        assert watch.last.endpoints[0].more_addresses == ("10.0.0.1", "10.0.0.9")
        dns.table["web.", "A"] = [60, "10.0.0.3"]
        await stage.refresh()
        assert watch.addresses == ["10.0.0.3"]
        assert watch.last.endpoints[0].more_addresses == ()
        watch.task.cancel()

    run(scenario())


def test_logical_ranks_the_address_in_use_then_the_others_families_by_turns() -> None:
    async def scenario() -> None:
        answer = [60, "10.0.0.9", "10.0.0.1"], [60, "2001:db8::9", "2001:db8::1"]
        stage = Stage(ScriptedDns(table(web_A=answer[0], web_AAAA=answer[1])))
        watch = await stage.watch("web", mode="logical")
        (endpoint,) = watch.last.endpoints
        ranked = (endpoint.address, *endpoint.more_addresses)
        assert sorted(ranked) == ["10.0.0.1", "10.0.0.9", "2001:db8::1", "2001:db8::9"]
        assert [":" in address for address in endpoint.more_addresses[:2]] == [True, False]
        watch.task.cancel()

    run(scenario())


def test_one_failing_family_keeps_its_addresses() -> None:
    async def scenario() -> None:
        dns = ScriptedDns(table(web_A=[60, "10.0.0.1"], web_AAAA=[60, "2001:db8::1"]))
        stage = Stage(dns)
        watch = await stage.watch("web")
        dns.table["web.", "AAAA"] = "SERVFAIL"
        dns.table["web.", "A"] = [60, "10.0.0.2"]
        await stage.refresh()
        assert watch.addresses == ["2001:db8::1", "10.0.0.2"]
        assert watch.last.state == "stale"
        assert stage.sleeps[-1] == 0.25  # the failing family is asked again soon
        watch.task.cancel()

    run(scenario())


def test_a_family_that_never_worked_does_not_spoil_the_other() -> None:
    """Some servers never answer AAAA; the service is fine all the same."""

    async def scenario() -> None:
        watch = await Stage(ScriptedDns(table(web_A=[60, "10.0.0.1"], web_AAAA="SERVFAIL"))).watch(
            "web"
        )
        assert watch.last == EndpointSet((Endpoint("10.0.0.1", 80, hostname="web"),), "ready", "")
        watch.task.cancel()

    run(scenario())


def test_a_hanging_family_does_not_hold_back_the_other() -> None:
    async def scenario() -> None:
        watch = await Stage(ScriptedDns(table(web_A=[60, "10.0.0.1"], web_AAAA="hang"))).watch(
            "web"
        )
        assert watch.addresses == ["10.0.0.1"]
        watch.task.cancel()

    run(scenario())


def test_a_hanging_name_blocks_no_other_in_the_same_source_or_another() -> None:
    async def scenario() -> None:
        dns = ScriptedDns(table(web_A=[60, "10.0.0.1"], dead_A="hang", dead_AAAA="hang"))
        stage = Stage(dns)
        both = await stage.watch("dead", "web")
        alone = await stage.watch("web")
        dead = await stage.watch("dead")
        assert both.addresses == alone.addresses == ["10.0.0.1"]
        assert dead.reports == []
        for watch in (both, alone, dead):
            watch.task.cancel()

    run(scenario())


def test_failed_beside_pending_is_not_reported_yet_but_beside_ready_is_stale() -> None:
    async def scenario() -> None:
        dns = ScriptedDns(table(bad_A="SERVFAIL", bad_AAAA="SERVFAIL", slow_A="hang"))
        dns.table["slow.", "AAAA"] = "hang"
        stage = Stage(dns)
        waiting = await stage.watch("bad", "slow")
        assert waiting.reports == []
        dns.table.update(table(web_A=[60, "10.0.0.1"]))
        mixed = await stage.watch("bad", "web")
        assert (mixed.addresses, mixed.last.state) == (["10.0.0.1"], "stale")
        assert "SERVFAIL" in mixed.last.error
        for watch in (waiting, mixed):
            watch.task.cancel()

    run(scenario())


def test_the_same_address_of_two_names_is_one_endpoint() -> None:
    async def scenario() -> None:
        watch = await Stage(ScriptedDns(table(a_A=[60, "10.0.0.1"], b_A=[60, "10.0.0.1"]))).watch(
            "a", "b"
        )
        assert watch.addresses == ["10.0.0.1"]
        watch.task.cancel()

    run(scenario())


def test_addresses_without_a_route_are_left_out_unless_there_are_no_others() -> None:
    async def scenario() -> None:
        dns = ScriptedDns(table(web_A=[60, "10.0.0.1"], web_AAAA=[60, "2001:db8::1"]))
        stage = Stage(dns)
        stage.unroutable = {"2001:db8::1"}
        watch = await stage.watch("web")
        assert watch.addresses == ["10.0.0.1"]
        stage.unroutable = {"2001:db8::1", "10.0.0.1"}
        await stage.refresh()
        assert watch.addresses == ["2001:db8::1", "10.0.0.1"]
        watch.task.cancel()

    run(scenario())


def test_literals_hosts_and_localhost_need_no_query(tmp_path: Path) -> None:
    async def scenario() -> None:
        hosts = tmp_path / "hosts"
        hosts.write_text("10.1.1.1 db Db-Alias\n2001:db8::5 db\n")
        dns = ScriptedDns()
        stage = Stage(dns, hosts=str(hosts))
        watches = [
            await stage.watch(name)
            for name in (
                "192.0.2.1",
                "[2001:db8::9]",
                "DB",
                "db-alias.",
                "localhost",
                "a.localhost.",
            )
        ]
        assert [w.addresses for w in watches] == [
            ["192.0.2.1"],
            ["2001:db8::9"],
            ["2001:db8::5", "10.1.1.1"],
            ["10.1.1.1"],
            ["::1", "127.0.0.1"],
            ["::1", "127.0.0.1"],
        ]
        assert dns.asked == []
        hosts.write_text("10.1.1.2 db\n")
        await stage.refresh()
        assert watches[2].addresses == ["10.1.1.2"]
        for watch in watches:
            watch.task.cancel()

    run(scenario())


def test_a_unix_socket_passes_as_it_is() -> None:
    async def scenario() -> None:
        watch = await Stage(ScriptedDns()).watch("unix:///run/a.sock", port=0)
        assert watch.last == EndpointSet((Endpoint("unix:///run/a.sock", 0),), "ready")
        watch.task.cancel()

    run(scenario())


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".", "", "a." * 130 + "b"])
def test_an_impossible_name_fails_without_a_query(name: str) -> None:
    async def scenario() -> None:
        dns = ScriptedDns()
        watch = await Stage(dns).watch(name)
        assert watch.last.state == "failed"
        assert "is not a domain name" in watch.last.error
        assert dns.asked == []
        watch.task.cancel()

    run(scenario())


def test_no_targets_is_an_answer() -> None:
    async def scenario() -> None:
        watch = await Stage(ScriptedDns()).watch()
        assert watch.reports == [EndpointSet((), "ready")]
        assert not watch.task.done()  # runs until cancelled
        watch.task.cancel()

    run(scenario())


def test_too_many_addresses_are_cut_and_said_so() -> None:
    async def scenario() -> None:
        many = [f"10.0.{i // 250}.{i % 250 + 1}" for i in range(30)]
        watch = await Stage(ScriptedDns(table(web_A=[60, *many])), max_endpoints=20).watch("web")
        assert len(watch.last.endpoints) == 20
        assert watch.last.error == "web has 30 endpoints, only the first 20 are used"
        assert watch.last.state == "ready"
        watch.task.cancel()

    run(scenario())


def test_queries_in_flight_are_bounded() -> None:
    async def scenario() -> None:
        dns = ScriptedDns()
        watch = await Stage(dns, max_queries=3).watch(*(f"n{i}" for i in range(20)))
        assert dns.most_in_flight == 3
        assert len(set(dns.asked)) == 40
        watch.task.cancel()

    run(scenario())


def test_an_unforeseen_error_costs_one_refresh(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        stage = Stage(ScriptedDns(table(web_A=[60, "10.0.0.1"])))
        watch = await stage.watch("web")
        with monkeypatch.context() as patch:
            patch.setattr(stage.dns, "table", None)
            await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.1"], "stale")
        assert "failed unexpectedly" in caplog.text
        await stage.refresh()
        assert watch.last.state == "ready"
        watch.task.cancel()

    run(scenario())


def test_cancelling_leaves_no_task() -> None:
    async def scenario() -> None:
        watch = await Stage(ScriptedDns(table(dead_A="hang", dead_AAAA="hang"))).watch("dead", "x")
        watch.task.cancel()
        await asyncio.wait([watch.task])
        await asyncio.sleep(0)
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        assert watch.task.cancelled()
        assert [t for t in others if not t.done() and t.cancelling() == 0] == []

    run(scenario())


SRV = ("_http._tcp.web.", "SRV")


def test_srv_gives_port_weight_and_priority() -> None:
    """Priorities are numbered from 0, weight 0 becomes 1, each address is an endpoint."""

    async def scenario() -> None:
        rows = table(a_A=[30, "10.0.0.1", "10.0.0.2"], b_A=[9, "10.0.0.3"])
        rows[SRV] = [60, "20 0 8002 b.", "10 5 8001 A."]
        dns = ScriptedDns(rows)
        stage = Stage(dns)
        watch = await stage.watch("_http._tcp.web", mode="srv", port=0)
        assert [
            (e.address, e.port, e.weight, e.priority, e.hostname) for e in watch.last.endpoints
        ] == [
            ("10.0.0.1", 8001, 5, 0, "a"),
            ("10.0.0.2", 8001, 5, 0, "a"),
            ("10.0.0.3", 8002, 1, 1, "b"),
        ]
        assert stage.sleeps == [9.0]  # the smallest TTL of all that was used
        watch.task.cancel()

    run(scenario())


def test_srv_glue_saves_the_queries() -> None:
    async def scenario() -> None:
        dns = ScriptedDns({SRV: [60, "1 1 80 a."]})
        dns.additional = [("a.", "A", 60, "10.0.0.1"), ("stranger.", "A", 60, "10.9.9.9")]
        watch = await Stage(dns).watch("_http._tcp.web", mode="srv")
        assert watch.addresses == ["10.0.0.1"]
        assert dns.asked == [SRV]
        watch.task.cancel()

    run(scenario())


def test_srv_target_dot_means_decidedly_not_available() -> None:
    async def scenario() -> None:
        watch = await Stage(ScriptedDns({SRV: [60, "0 0 0 ."]})).watch("_http._tcp.web", mode="srv")
        assert (watch.last.endpoints, watch.last.state) == ((), "ready")
        assert "decidedly not available" in watch.last.error
        watch.task.cancel()

    run(scenario())


def test_srv_failures_keep_what_is_known() -> None:
    """The SRV query failing keeps all; a target failing keeps that target's addresses."""

    async def scenario() -> None:
        rows = table(a_A=[60, "10.0.0.1"], b_A=[60, "10.0.0.2"])
        rows[SRV] = [60, "1 1 80 a.", "1 1 80 b."]
        dns = ScriptedDns(rows)
        stage = Stage(dns)
        watch = await stage.watch("_http._tcp.web", mode="srv")
        dns.table["b.", "A"] = "SERVFAIL"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.1", "10.0.0.2"], "stale")
        dns.table["b.", "A"] = "NXDOMAIN"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.1"], "ready")
        dns.table[SRV] = "SERVFAIL"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.1"], "stale")
        dns.table[SRV] = "NXDOMAIN"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == ([], "ready")
        watch.task.cancel()

    run(scenario())


def test_srv_without_a_usable_target_is_failed_at_first() -> None:
    async def scenario() -> None:
        dns = ScriptedDns({SRV: [60, "1 1 80 a."], ("a.", "A"): "SERVFAIL"})
        dns.table["a.", "AAAA"] = "SERVFAIL"
        stage = Stage(dns)
        watch = await stage.watch("_http._tcp.web", mode="srv")
        assert watch.last.state == "failed"
        assert "a. A" in watch.last.error or "a. AAAA" in watch.last.error
        assert stage.sleeps[-1] < 1.0
        watch.task.cancel()

    run(scenario())


def test_srv_priority_without_addresses_leaves_no_gap() -> None:
    async def scenario() -> None:
        rows = table(b_A=[60, "10.0.0.2"])
        rows[SRV] = [60, "1 1 80 gone.", "7 1 80 b."]
        watch = await Stage(ScriptedDns(rows)).watch("_http._tcp.web", mode="srv")
        assert [(e.address, e.priority) for e in watch.last.endpoints] == [("10.0.0.2", 0)]
        watch.task.cancel()

    run(scenario())


LIST = ("one.test", "two.test")


def test_another_name_of_the_search_list_does_not_take_over_while_the_right_one_fails() -> None:
    async def scenario() -> None:
        rows = table(web__one__test_A=[60, "10.0.0.1"], web__two__test_A=[60, "10.6.6.6"])
        dns = ScriptedDns(rows)
        stage = Stage(dns, search=LIST)
        watch = await stage.watch("web")
        assert watch.addresses == ["10.0.0.1"]
        dns.table["web.one.test.", "A"] = dns.table["web.one.test.", "AAAA"] = "SERVFAIL"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.1"], "stale")
        assert "web.one.test. AAAA: 127.0.0.1:53: SERVFAIL" in watch.last.error
        dns.table["web.one.test.", "A"] = dns.table["web.one.test.", "AAAA"] = "NXDOMAIN"
        await stage.refresh()  # now it is really gone
        assert (watch.addresses, watch.last.state) == (["10.6.6.6"], "ready")
        watch.task.cancel()

    run(scenario())


def test_an_early_family_of_another_name_does_not_take_over_either() -> None:
    async def scenario() -> None:
        rows = table(web__one__test_A=[60, "10.0.0.1"], web__two__test_A=[60, "10.6.6.6"])
        dns = ScriptedDns(rows)
        stage = Stage(dns, search=LIST)
        watch = await stage.watch("web")
        dns.table["web.one.test.", "A"] = dns.table["web.one.test.", "AAAA"] = "SERVFAIL"
        dns.table["web.two.test.", "AAAA"] = "hang"
        await stage.refresh()
        assert watch.addresses == ["10.0.0.1"]
        watch.task.cancel()

    run(scenario())


def test_a_failing_first_name_says_nothing_of_the_name_that_was_used() -> None:
    """The empty half of another name's answer must not remove addresses."""

    async def scenario() -> None:
        dns = ScriptedDns(table(web__two__test_A=[60, "10.0.0.2"]))
        stage = Stage(dns, search=LIST)
        watch = await stage.watch("web")
        dns.table["web.one.test.", "AAAA"] = "SERVFAIL"
        dns.table["web.two.test.", "A"] = dns.table["web.two.test.", "AAAA"] = "SERVFAIL"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.2"], "stale")
        watch.task.cancel()

    run(scenario())


def test_srv_of_another_name_of_the_search_list_does_not_take_over() -> None:
    async def scenario() -> None:
        rows = table(a_A=[60, "10.0.0.1"], b_A=[60, "10.6.6.6"])
        first, second = ("_h._tcp.web.one.test.", "SRV"), ("_h._tcp.web.two.test.", "SRV")
        rows[first], rows[second] = [60, "1 1 80 a."], [60, "1 1 80 b."]
        dns = ScriptedDns(rows)
        stage = Stage(dns, search=LIST, ndots=5)
        watch = await stage.watch("_h._tcp.web", mode="srv")
        dns.table[first] = "SERVFAIL"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.0.0.1"], "stale")
        dns.table[first] = "NXDOMAIN"
        await stage.refresh()
        assert (watch.addresses, watch.last.state) == (["10.6.6.6"], "ready")
        watch.task.cancel()

    run(scenario())
