"""The pool of sub-channels: one per place, drained when it leaves, bounded; with fakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import meshclient
from meshclient.clients import grpc_subchannels
from meshclient.clients.grpc_subchannels import Profile, Refused, SubPool

PROFILE = Profile(None, None, None)


class World:
    """A pool whose channels are their addresses, over the endpoints of one service."""

    def __init__(self, mesh: Any) -> None:
        self.made: list[str] = []
        self.ended: list[str] = []
        self.cluster = mesh._publisher.plane.clusters["orders"]
        self.pool = SubPool(self._make, self.ended.append, self._no_relay)

    def _make(self, address: str, _options: Any, _credentials: Any, _compression: Any) -> str:
        self.made.append(address)
        return address

    def _no_relay(self) -> Any:
        raise AssertionError("no TLS here")

    def open(self, index: int, authority: str = "orders", profile: Profile = PROFILE) -> Any:
        return self.pool.open(self.cluster, self.cluster.states[index], authority, profile)


def _mesh(**fields: Any) -> Any:
    endpoints = [f"10.0.0.{number}:80" for number in range(1, 6)]
    service = {"endpoints": endpoints, **fields}
    return meshclient.Mesh.from_documents([{"version": 1, "services": {"orders": service}}])


@pytest.fixture
def world() -> Iterator[World]:
    with _mesh() as mesh:
        yield World(mesh)


def test_calls_to_a_place_share_a_channel(world: World) -> None:
    first, second = world.open(0), world.open(0)
    assert first is second
    assert first.active == 2
    world.pool.give_back(first)
    world.pool.give_back(second)
    assert world.open(0) is first
    assert world.made == ["ipv4:10.0.0.1:80"]
    assert world.ended == []


def test_another_authority_or_profile_is_another_channel(world: World) -> None:
    subs = {world.open(0), world.open(0, "other"), world.open(0, profile=Profile([("a", 1)], 0, 0))}
    assert len(subs) == 3


def test_what_left_is_closed_when_its_last_call_ends(world: World) -> None:
    busy, idle, kept = world.open(0), world.open(1), world.open(2)
    world.pool.give_back(idle)
    world.pool.retain([kept.target])
    assert world.ended == ["ipv4:10.0.0.2:80"]
    assert busy.retired
    world.pool.give_back(busy)
    assert world.ended == ["ipv4:10.0.0.2:80", "ipv4:10.0.0.1:80"]
    assert world.pool.targets() == [kept.target]


def test_there_is_room_for_so_many_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_subchannels, "MAX_SUBCHANNELS", 3)
    for index in range(5):
        world.pool.give_back(world.open(index))
    assert len(world.pool.targets()) == 3
    assert world.ended == ["ipv4:10.0.0.1:80", "ipv4:10.0.0.2:80"]  # the longest idle first


def test_what_is_in_use_is_never_closed_for_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_subchannels, "MAX_SUBCHANNELS", 2)
    for index in range(5):
        world.open(index)
    assert world.ended == []
    assert len(world.pool.targets()) == 5


def test_an_old_connection_is_replaced() -> None:
    with _mesh(connection={"max_duration": "1s"}) as mesh:
        world = World(mesh)
        old = world.open(0)
        old.created -= 5.0
        fresh = world.open(0)
        assert fresh is not old
        world.pool.give_back(old)
        assert world.ended == ["ipv4:10.0.0.1:80"]


def test_a_proxy_of_the_policy_is_not_gone_round() -> None:
    with _mesh(proxy="http://10.9.9.9:3128") as mesh, pytest.raises(Refused, match="proxy"):
        World(mesh).open(0)


def test_a_closed_pool_opens_nothing(world: World) -> None:
    sub = world.open(0)
    assert world.pool.close() == [sub.channel]
    with pytest.raises(Refused, match="closed"):
        world.open(0)
    world.pool.give_back(sub)
    assert world.ended == []


def test_counts_say_what_is_in_use(world: World) -> None:
    world.open(0)
    sub = world.open(0)
    assert list(world.pool.counts().values()) == [(1, 2)]
    world.pool.retain([])
    assert list(world.pool.counts().values()) == [(1, 2)]
    world.pool.give_back(sub)
    assert list(world.pool.counts().values()) == [(1, 1)]
