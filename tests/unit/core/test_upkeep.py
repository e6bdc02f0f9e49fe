"""The loop that looks after clusters: only when due or urged, one failure at a time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from meshclient.model.events import Event
from meshclient.upkeep import MAX_PAUSE_S, MIN_PAUSE_S, Upkeep


@dataclass(frozen=True, slots=True)
class Tended(Event):
    """What the scripted clusters tell."""

    name: str
    at: float


class Named:
    def __init__(self, name):
        self.name = name


class Scripted:
    """A cluster that is due at given times."""

    def __init__(self, name, *due, fails=False):
        self.cluster = Named(name)
        self._due = list(due)
        self._fails = fails

    @property
    def due_at(self):
        return self._due[0] if self._due else None

    def tend(self, now):
        if self._due:
            self._due.pop(0)
        if self._fails:
            raise RuntimeError("scripted")
        return [Tended(self.cluster.name, now)]


class Scene:
    """An upkeep over scripted clusters, with the clock at hand."""

    def __init__(self, *clusters):
        self.clusters = list(clusters)
        self.now = 100.0
        self.told = []
        self.heard = asyncio.Event()
        self.upkeep = Upkeep(lambda: self, lambda: self.now, self._hear)

    def _hear(self, event):
        self.told.append(event)
        self.heard.set()

    def tended(self):
        return self.clusters


def test_nothing_is_done_before_it_is_due():
    scene = Scene(Scripted("a", 105.0), Scripted("b", 103.0))
    assert scene.upkeep.work() == 3.0
    assert scene.told == []


def test_what_is_due_is_done_and_told():
    scene = Scene(Scripted("a", 100.0, 110.0), Scripted("b", 103.0))
    assert scene.upkeep.work() == 3.0
    assert scene.told == [Tended("a", 100.0)]


def test_an_urged_cluster_is_tended_before_its_time_and_only_once():
    late = Scripted("a", 150.0, 160.0)
    scene = Scene(late)
    scene.upkeep.urge(late)
    scene.upkeep.urge(late)
    scene.upkeep.work()
    scene.upkeep.work()
    assert scene.told == [Tended("a", 100.0)]


def test_the_pause_has_bounds_in_both_directions():
    assert Scene().upkeep.work() == MAX_PAUSE_S
    always = Scripted("a", *([100.0] * 3))
    assert Scene(always).upkeep.work() == MIN_PAUSE_S


def test_one_failing_cluster_does_not_keep_the_others_from_care(caplog):
    scene = Scene(Scripted("bad", 100.0, fails=True), Scripted("good", 100.0))
    with caplog.at_level(logging.ERROR, "meshclient.upkeep"):
        scene.upkeep.work()
    assert scene.told == [Tended("good", 100.0)]
    assert "upkeep of cluster bad failed" in caplog.text


def test_urging_from_a_call_wakes_the_loop():
    late = Scripted("a", 1_000.0)
    scene = Scene(late)

    async def run():
        task = asyncio.create_task(scene.upkeep.run())
        await asyncio.sleep(0)
        await asyncio.to_thread(scene.upkeep.urge, late)
        async with asyncio.timeout(5.0):
            await scene.heard.wait()
        task.cancel()

    asyncio.run(run())
    assert scene.told == [Tended("a", 100.0)]


def test_urging_after_the_loop_has_ended_is_harmless():
    late = Scripted("a", 1_000.0)
    scene = Scene(late)

    async def run():
        task = asyncio.create_task(scene.upkeep.run())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    scene.upkeep.urge(late)
    scene.upkeep.after_fork_in_child()
    assert scene.upkeep.work() == MAX_PAUSE_S
    assert scene.told == []
