"""In which order and when the addresses of one name are tried."""

from __future__ import annotations

import errno
import math
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.transport import addresses, race
from meshclient.transport.interface import Target
from meshclient.transport.race import GAP_S, Failures, Race, interleave

V4, V6 = socket.AF_INET, socket.AF_INET6


def named(text: str) -> list[race.Address]:
    """``"a B c"``: capitals are IPv6."""
    return [(V6 if name.isupper() else V4, name) for name in text.split()]


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ("", ""),
        ("a", "a"),
        ("a b", "a b"),
        ("A B a b", "A a B b"),
        ("a b c A", "a A b c"),
        ("a A A a b", "a A b"),
    ],
)
def test_families_take_turns_from_the_first_ones_family(found: str, order: str) -> None:
    assert interleave(named(found)) == named(order)


@given(st.lists(st.tuples(st.sampled_from([V4, V6]), st.integers(0, 40).map(str)), max_size=60))
def test_every_address_once_the_first_stays_first(found: list[race.Address]) -> None:
    order = interleave(found)
    assert len(order) == len(set(order)) or len(found) < 2
    assert len(order) == min(len(set(found)), race.MAX_ADDRESSES) or len(found) < 2
    assert order[:1] == found[:1]
    for family in (V4, V6):
        mine = [address for address in order if address[0] == family]
        assert mine == sorted(mine, key=found.index)


def test_each_attempt_gives_the_one_before_300_ms() -> None:
    now = 100.0
    run = Race(3, now, 10.0)
    assert run.due(now)
    assert run.start(now) == 0
    assert not run.due(now)
    assert run.wait_s(now) == pytest.approx(GAP_S)
    assert not run.due(now + 0.29)
    assert run.due(now + 0.301)
    assert run.start(now + 0.301) == 1
    assert run.start(now + 0.602) == 2
    assert run.wait_s(now + 0.602) == math.inf
    assert not run.due(now + 99.0)


def test_a_failure_starts_the_next_attempt_at_once() -> None:
    run = Race(3, 0.0, 10.0)
    run.start(0.0)
    run.failed()
    assert run.due(0.001)
    run.start(0.001)
    assert not run.due(0.002), "one failure hurries one attempt"


@given(st.integers(1, 16), st.floats(0.001, 100.0))
def test_every_address_gets_its_turn_within_the_time(count: int, time_s: float) -> None:
    run = Race(count, 0.0, time_s)
    now = 0.0
    for _ in range(count):
        now += run.wait_s(now)
        assert run.due(now)
        run.start(now)
    assert now < time_s


def test_the_error_names_every_address_that_failed() -> None:
    failures = Failures()
    assert "no address" in str(failures.error())
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    failures.add((V4, ("10.0.0.1", 80)), refused)
    assert failures.error() is refused
    failures.add((V6, ("::1", 80, 0, 0)), OSError(errno.ENETUNREACH, "unreachable"))
    error = failures.error()
    assert error.errno == errno.ENETUNREACH
    assert "10.0.0.1: refused; ::1: unreachable" in str(error)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.1.2.3", (V4, ("10.1.2.3", 80))),
        ("::1", (V6, ("::1", 80, 0, 0))),
        ("fe80::1%7", (V6, ("fe80::1", 80, 0, 7))),
        ("orders", None),
        ("1.2.3.4.example", None),
    ],
)
def test_literals_need_no_resolver(host: str, address: race.Address | None) -> None:
    assert addresses.literal(host, 80) == address


def test_a_scope_is_the_number_of_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def index(name: str) -> int:
        if name != "eth0":
            raise OSError(errno.ENODEV, "no such device")
        return 4

    monkeypatch.setattr(addresses.socket, "if_nametoindex", index)  # type: ignore[attr-defined]
    assert addresses.literal("fe80::1%eth0", 80) == (V6, ("fe80::1", 80, 0, 4))
    with pytest.raises(OSError, match="no network interface 'eth9'"):
        addresses.literal("fe80::1%eth9", 80)


def test_further_addresses_of_an_endpoint_take_turns_with_the_first() -> None:
    target = Target("10.0.0.1", 80, more_addresses=("10.0.0.2", "2001:db8::1"))
    found = addresses.known_addresses(target)
    assert found is not None
    assert [place[0] for _, place in found] == ["10.0.0.1", "2001:db8::1", "10.0.0.2"]
    assert addresses.known_addresses(Target("orders", 80)) is None
    assert addresses.known_addresses(Target("unix:///run/x.sock", 0)) == [
        (socket.AF_UNIX, "/run/x.sock")
    ]
