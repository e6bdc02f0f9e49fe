"""Calls that are cancelled at every point where they can wait: nothing stays counted or open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from servers.http import Reply

from meshclient import Mesh

from .drivers import ASYNC_DRIVERS, NO_LIMIT, Driver, leftovers, make_mesh
from .scenario import Scenario
from .timeouts import SLOW, stall
from .world import Time, World

BUSY = Reply(503, b"busy")
LIMIT_S = 10.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@dataclass
class Moment:
    """What a test looks at to know that the call waits where it should."""

    mesh: Mesh
    world: World
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():  # noqa: ASYNC110 - a server's thread makes it true
                await asyncio.sleep(0.001)

    def in_flight(self) -> int:
        return sum(sum(counts.values()) for counts in self.mesh.dump()["clusters"].values())

    async def connecting(self) -> None:
        await self.until(lambda: self.in_flight() == 1)
        await asyncio.sleep(0.01)

    async def arrived(self) -> None:
        await self.until(lambda: len(self.world.end(0)) == 1)

    async def marked(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self.reached.wait()


async def _get(client: Any, moment: Moment) -> None:
    await client.get("http://svc/x")


async def _read(client: Any, moment: Moment) -> None:
    async with client.stream("GET", "http://svc/x") as response:
        async for _ in response.aiter_raw():
            moment.reached.set()


async def _upload(client: Any, moment: Moment) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        moment.reached.set()
        await asyncio.sleep(60)
        yield b"never"

    await client.put("http://svc/x", content=pieces())


@dataclass(frozen=True)
class Place:
    """A point where a call waits: how to get it there, and how to see that it is."""

    name: str
    scenario: Scenario
    work: Callable[[Any, Moment], Awaitable[None]]
    there: Callable[[Moment], Awaitable[None]]

    def __str__(self) -> str:
        return self.name


PLACES = (
    Place("connecting", Scenario("", endpoints=("black_hole",)), _get, Moment.connecting),
    Place("waiting for the head", Scenario("", script=(SLOW,)), _get, Moment.arrived),
    Place(
        "in back-off",
        Scenario("", script=(BUSY,), service={"retries": {"on": [503]}}),
        _get,
        Moment.marked,
    ),
    Place("in the body", Scenario("", script=(stall,)), _read, Moment.marked),
    Place("in the body of a plain call", Scenario("", script=(stall,)), _get, Moment.arrived),
    Place("in the upload", Scenario("", script=(SLOW,)), _upload, Moment.marked),
)


async def by_cancel(work: Awaitable[None], there: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    await there
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(work: Awaitable[None], there: Awaitable[None]) -> None:
    """``asyncio.timeout`` around the call, set off as soon as the call is there."""

    async def set_off(limit: asyncio.Timeout) -> None:
        await there
        limit.reschedule(asyncio.get_running_loop().time())

    async def run() -> None:
        async with asyncio.timeout(None) as limit:
            alarms.append(asyncio.create_task(set_off(limit)))
            await work

    alarms: list[asyncio.Task[None]] = []
    with pytest.raises(TimeoutError) as caught:
        await run()
    assert type(caught.value) is TimeoutError
    await alarms[0]


async def by_task_group(work: Awaitable[None], there: Awaitable[None]) -> None:
    """A sibling fails, and the group cancels the call."""

    async def run() -> None:
        await work

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(run())
            await there
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


async def _cancelled(driver: Driver, place: Place, way: Any, mesh: Mesh, world: World) -> None:
    moment = Moment(mesh, world)

    async def nap(_: float) -> None:
        moment.reached.set()
        await asyncio.sleep(60)

    async with mesh.async_client(family=driver.family, **NO_LIMIT) as client:
        client._transport._sleep = nap  # type: ignore[attr-defined]
        await way(place.work(client, moment), place.there(moment))
        assert leftovers(mesh) == []
        others = asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]
        assert not others
        if place.scenario.endpoints == ("a",):
            world.begin((Reply(200, b"ok"),))
            response = await client.get("http://svc/again")
            assert response.content == b"ok"
            assert leftovers(mesh) == []
    await mesh.aclose()


@pytest.mark.parametrize("way", [by_cancel, by_timeout, by_task_group])
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("driver", ASYNC_DRIVERS, ids=str)
def test_a_cancelled_call_leaves_nothing(
    driver: Driver, place: Place, way: Any, world: World
) -> None:
    world.begin(place.scenario.script)
    moments = Time(time.monotonic)
    mesh = make_mesh(place.scenario, world, moments, "raise")
    assert driver.loop is not None
    with asyncio.Runner(loop_factory=driver.loop) as runner:
        runner.run(_cancelled(driver, place, way, mesh, world))
    mesh.close()
    assert world.open_connections() == 0


@pytest.mark.parametrize("driver", ASYNC_DRIVERS, ids=str)
def test_cancelled_before_its_first_step(driver: Driver, world: World) -> None:
    """A task that is cancelled before it ran, and one in the very moment of the answer."""

    async def main(mesh: Mesh) -> None:
        async with mesh.async_client(family=driver.family, **NO_LIMIT) as client:
            for steps in range(12):
                task = asyncio.create_task(client.get("http://svc/x"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert leftovers(mesh) == []
            assert (await client.get("http://svc/x")).content == b"ok"
        await mesh.aclose()

    world.begin((Reply(200, b"ok"),))
    mesh = make_mesh(Scenario(""), world, Time(time.monotonic), "raise")
    assert driver.loop is not None
    with asyncio.Runner(loop_factory=driver.loop) as runner:
        runner.run(main(mesh))
    assert world.open_connections() == 0
