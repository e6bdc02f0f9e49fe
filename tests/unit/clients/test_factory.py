"""The engines of a mesh: made once each, closed for good, chosen by name."""

from __future__ import annotations

import asyncio

import pytest

from meshclient import Mesh, errors
from meshclient.clients.factory import Engines
from meshclient.model.cluster import ConnectionOptions
from meshclient.transport.interface import Target

DOCUMENT = {"version": 1, "services": {}}


class Engine:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def stats(self) -> dict[Target, str]:
        return {Target("10.0.0.1", 80): "a", Target("10.0.0.2", 80): "b"}

    def retain(self, targets: list[Target]) -> None:
        self.told.append([str(target) for target in targets])

    def close(self) -> None:
        self.told.append("close")

    async def aclose(self) -> None:
        self.told.append("aclose")

    def after_fork_in_child(self) -> None:
        self.told.append("fork")


@pytest.fixture
def made(monkeypatch):
    engines: list[tuple[str, str, bool, Engine]] = []

    def make(name: str, colour: str, http2: bool) -> Engine:
        engines.append((name, colour, http2, Engine()))
        return engines[-1][3]

    monkeypatch.setattr("meshclient.clients.factory._new_engine", make)
    return engines


def test_an_engine_is_made_once_when_it_is_needed(made):
    engines = Engines()
    assert not made
    one = engines.get("sync")
    assert engines.get("sync") is one
    assert engines.get("async") is not one
    assert [m[:2] for m in made] == [("meshclient", "sync"), ("meshclient", "async")]
    assert list(engines.values()) == [one, engines.get("async")]


def test_the_own_engine_speaks_http2_itself_and_the_others_need_another_one(made):
    own = Engines()
    assert own.get("sync", http2=True) is own.get("sync")
    other = Engines("httpcore")
    assert other.get("sync", http2=True) is not other.get("sync")
    assert set(other.stats()) == {"sync", "sync http2"}


@pytest.mark.parametrize("name", ["", "aiohttp", None])
def test_an_unknown_engine_is_refused(name):
    with pytest.raises(ValueError, match="engine is one of meshclient, httpcore, httpx, not"):
        Mesh.from_documents([DOCUMENT], engine=name)


def test_only_what_left_is_drained(made):
    engines = Engines()
    engines.get("sync")
    kept, gone, other = (
        (f"10.0.0.{host}", 80, ConnectionOptions(), None, None, "", None) for host in (1, 2, 3)
    )
    engines.drain({kept}, {kept})
    assert made[0][3].told == []
    engines.drain({kept, gone, other}, {kept})
    assert made[0][3].told == [["10.0.0.1:80"]]


def test_closing_is_final_and_each_engine_is_closed_once_in_its_own_way(made):
    engines = Engines()
    engines.get("sync")
    engines.get("async")
    asyncio.run(engines.aclose())
    engines.close()
    assert [m[3].told for m in made] == [["close"], ["aclose"]]
    assert not engines.values()
    with pytest.raises(errors.ClosedError, match="the mesh is closed"):
        engines.get("sync")


def test_a_forked_child_is_told_to_every_engine(made):
    engines = Engines()
    engines.get("sync")
    engines._lock.acquire()  # held by a thread that the child does not have
    engines.after_fork_in_child()
    assert made[0][3].told == ["fork"]
    assert engines.get("sync") is made[0][3]


@pytest.mark.parametrize(
    ("name", "module"),
    [("meshclient", "sync_engine"), ("httpcore", "fallback"), ("httpx", "httpx_engine")],
)
def test_the_name_chooses_the_engine(name, module):
    with Mesh.from_documents([DOCUMENT], engine=name) as mesh, mesh.client() as client:
        assert type(client._transport._engine).__module__ == f"meshclient.transport.{module}"
