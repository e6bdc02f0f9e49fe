"""How many connections are opened ahead: Envoy's formula, the floor of warm-up, the pauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import ConnectionOptions
from meshclient.model.endpoint import Endpoint
from meshclient.transport.interface import Target
from meshclient.transport.preconnect import (
    MAX_OPENING,
    MAX_PER_EVENT,
    Spares,
    models,
    sibling,
    spares_for,
)


def spares(ratio: float = 1.0, warm_up: int = 0) -> Spares:
    found = spares_for(ConnectionOptions(preconnect_ratio=ratio, warm_up=warm_up))
    assert found is not None
    return found


def test_the_defaults_have_nothing_ahead() -> None:
    assert spares_for(ConnectionOptions()) is None


@pytest.mark.parametrize(
    ("ratio", "busy", "idle", "opening", "expected"),
    [
        (1.5, 0, 0, 0, 0),
        (1.5, 1, 0, 0, 1),
        (1.5, 1, 1, 0, 0),
        (1.5, 1, 0, 1, 0),
        (1.5, 2, 0, 0, 1),
        (1.5, 3, 1, 0, 1),
        (2.0, 3, 0, 0, 3),
        (3.0, 4, 0, 0, 3),
        (3.0, 1, 0, 0, 2),
        (3.0, 1, 5, 0, 0),
    ],
)
def test_the_ratio(ratio: float, busy: int, idle: int, opening: int, expected: int) -> None:
    ahead = spares(ratio)
    ahead.opening = opening
    assert ahead.missing(idle, busy, 0.0) == expected


def test_the_connection_of_the_call_itself_counts_in_the_cap() -> None:
    ahead = spares(3.0)
    ahead.pending = 5
    assert ahead.missing(0, 0, 0.0, opened=1) == MAX_PER_EVENT - 1


@given(
    st.floats(1.01, 3.0),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 8),
    st.integers(0, 9),
)
def test_it_goes_on_exactly_while_envoys_condition_holds(
    ratio: float, pending: int, busy: int, opening: int, idle: int
) -> None:
    """should_connect: (pending + active) * ratio > connecting and connected + active."""
    ahead = spares(ratio)
    ahead.pending, ahead.opening = pending, opening
    opened = 0
    while opened < min(MAX_PER_EVENT, MAX_OPENING - opening) and (pending + busy) * ratio > (
        pending + opening + opened + idle + busy
    ):
        opened += 1
    assert ahead.missing(idle, busy, 0.0) == opened


@given(st.integers(1, 64), st.integers(0, 70), st.integers(0, 70))
def test_warm_up_is_a_floor_that_is_reached_in_steps(warm_up: int, busy: int, idle: int) -> None:
    ahead = spares(1.0, warm_up)
    for _ in range(64):
        missing = ahead.missing(idle, busy, 0.0)
        assert missing <= MAX_OPENING
        if not missing:
            break
        idle += missing
    assert idle + busy >= warm_up


def test_pauses_grow_and_one_success_ends_them() -> None:
    ahead = spares(1.0, 1)
    pauses = []
    now = 0.0
    for _ in range(9):
        ahead.failed(now)
        assert ahead.missing(0, 0, now) == 0
        pauses.append(ahead.paused_s(now))
        now += pauses[-1]
        assert ahead.missing(0, 0, now) == 1
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    ahead.failed(now)
    ahead.reached()
    assert ahead.missing(0, 0, now) == 1


def test_a_sibling_is_dialled_as_its_model_but_elsewhere() -> None:
    options = ConnectionOptions(warm_up=2)
    model = Target("10.0.0.1", 80, None, options, protocol="h2")
    other = sibling(model, Endpoint("10.0.0.2", 81, more_addresses=("10.0.0.3",)), None)  # type: ignore[arg-type]
    assert other == Target("10.0.0.2", 81, None, options, protocol="h2")
    assert other.more_addresses == ("10.0.0.3",)


def test_each_way_of_dialling_a_place_gives_one_model() -> None:
    options = ConnectionOptions(warm_up=1)
    plain = [Target(f"10.0.0.{host}", 80, None, options) for host in (1, 2)]
    h2 = Target("10.0.0.1", 80, None, options, protocol="h2")
    stranger = Target("10.9.9.9", 80, None, options)
    places = {("10.0.0.1", 80, options, None), ("10.0.0.2", 80, options, None)}
    assert models([stranger, *plain, h2], places) == [plain[0], h2]
