"""The five drivers, each one way to run a scenario; they judge nothing."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from meshclient import Mesh, MeshError
from meshclient.config import load_documents

from . import bodies
from .scenario import Ask, Colour, Observed, Run, Scenario
from .world import Time, World, counter

NO_LIMIT = {"timeout": None}


@dataclass(frozen=True)
class Driver:
    """A client library in one colour, on one kind of loop."""

    name: str
    family: str
    colour: Colour
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None

    @property
    def library(self) -> Any:
        return importlib.import_module(self.family)

    def __str__(self) -> str:
        return self.name


DRIVERS = (
    Driver("httpx-sync", "httpx", "sync"),
    Driver("httpx-asyncio", "httpx", "async", asyncio.new_event_loop),
    Driver("httpx-uvloop", "httpx", "async", uvloop.new_event_loop),
    Driver("httpx2-sync", "httpx2", "sync"),
    Driver("httpx2-asyncio", "httpx2", "async", asyncio.new_event_loop),
)
ASYNC_DRIVERS = tuple(driver for driver in DRIVERS if driver.colour == "async")


def make_mesh(scenario: Scenario, world: World, moments: Time, local_replies: Any) -> Mesh:
    """The scenario's mesh, with a clock and randomness that every driver shares."""
    if scenario.config is not None:
        config = scenario.config(world)
    else:
        config = load_documents(world.documents(scenario), outbound=scenario.outbound)
    return Mesh(
        lambda: config,
        local_replies=local_replies,
        retry_strategies=scenario.strategies() if scenario.strategies else None,
        clock=moments.clock,
        rand=counter(),
    )


def run(driver: Driver, scenario: Scenario, world: World, local_replies: str = "raise") -> Run:
    """One scenario through one driver."""
    done = Run()
    moments = Time(time.monotonic)
    world.begin(scenario.script)
    mesh = make_mesh(scenario, world, moments, local_replies)
    try:
        if driver.loop is None:
            _run_sync(driver, scenario, world, mesh, moments, done)
        else:
            with asyncio.Runner(loop_factory=driver.loop) as runner:
                runner.run(_run_async(driver, scenario, world, mesh, moments, done))
    finally:
        mesh.close()
    done.naps = moments.naps
    for name, request in world.end(len(scenario.received)):
        done.upstreams.append(name)
        done.received.append(request)
    if still := world.open_connections():
        done.left.append(f"{still} connections")
    return done


def _options(driver: Driver, scenario: Scenario) -> dict[str, Any]:
    given = scenario.client(driver.library, driver.colour) if scenario.client else {}
    return {"family": driver.family, **NO_LIMIT, **given}


def _run_sync(
    driver: Driver, scenario: Scenario, world: World, mesh: Mesh, moments: Time, done: Run
) -> None:
    with mesh.client(**_options(driver, scenario)) as client:
        client._transport._sleep = moments.sleep  # type: ignore[attr-defined]
        for ask in scenario.asks:
            done.answers.append(_ask_sync(driver, client, ask, world))
    done.left += leftovers(mesh)


def _ask_sync(driver: Driver, client: Any, ask: Ask, world: World) -> Observed:
    arguments = _arguments(ask, driver.colour)
    seen = Observed()
    try:
        if ask.reading == "whole":
            response = client.request(ask.method, world.url(ask.url), **arguments)
            seen.body = response.content
            _take_head(seen, response, world)
            return seen
        with client.stream(ask.method, world.url(ask.url), **arguments) as response:
            _take_head(seen, response, world)
            if ask.reading == "lines":
                seen.body = "|".join(response.iter_lines()).encode()
            elif ask.reading in ("stream", "early"):
                for piece in response.iter_raw():
                    seen.body += piece
                    if ask.reading == "early":
                        break
    except driver.library.RequestError as error:
        _take_error(seen, error, driver, world)
    return seen


async def _run_async(
    driver: Driver, scenario: Scenario, world: World, mesh: Mesh, moments: Time, done: Run
) -> None:
    async with mesh.async_client(**_options(driver, scenario)) as client:
        client._transport._sleep = moments.async_sleep  # type: ignore[attr-defined]
        for ask in scenario.asks:
            done.answers.append(await _ask_async(driver, client, ask, world))
    done.left += leftovers(mesh)
    done.left += [repr(t) for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    await mesh.aclose()


async def _ask_async(driver: Driver, client: Any, ask: Ask, world: World) -> Observed:
    arguments = _arguments(ask, driver.colour)
    seen = Observed()
    try:
        if ask.reading == "whole":
            response = await client.request(ask.method, world.url(ask.url), **arguments)
            seen.body = response.content
            _take_head(seen, response, world)
            return seen
        async with client.stream(ask.method, world.url(ask.url), **arguments) as response:
            _take_head(seen, response, world)
            if ask.reading == "lines":
                seen.body = "|".join([line async for line in response.aiter_lines()]).encode()
            elif ask.reading in ("stream", "early"):
                async for piece in response.aiter_raw():
                    seen.body += piece
                    if ask.reading == "early":
                        break
    except driver.library.RequestError as error:
        _take_error(seen, error, driver, world)
    return seen


def _arguments(ask: Ask, colour: Colour) -> dict[str, Any]:
    made = bodies.make(ask.body, colour)
    options = dict(ask.options)
    headers = {**made.pop("headers", {}), **options.pop("headers", {})}
    return {**made, **options, "headers": headers}


def _take_head(seen: Observed, response: Any, world: World) -> None:
    seen.status = response.status_code
    seen.headers = dict(response.headers)
    seen.history = tuple(r.status_code for r in response.history)
    _take_report(seen, response.extensions["meshclient"], world)


def _take_error(seen: Observed, error: Exception, driver: Driver, world: World) -> None:
    seen.error = type(error).__name__ if isinstance(error, MeshError) else f"foreign {error!r}"
    seen.counterpart = next(
        cls.__name__
        for cls in type(error).__mro__
        if cls.__module__.partition(".")[0] == driver.family
    )
    _take_report(seen, error.report, world)  # type: ignore[attr-defined]


def _take_report(seen: Observed, report: Any, world: World) -> None:
    seen.attempts = tuple(
        f"{world.name(a.endpoint)} {a.outcome} {a.status or '-'}" for a in report.attempts
    )
    seen.flags = report.flags
    seen.notes = report.notes


def leftovers(mesh: Mesh) -> list[str]:
    """What a mesh without a call under way must not count."""
    plane = mesh._publisher.plane
    found = []
    for name, state in (*plane.clusters.items(), ("passthrough", plane.passthrough)):
        if state.active_requests:
            found.append(f"{name}: {state.active_requests} in flight")
        if state.lane.limiter.active:
            found.append(f"{name}: {state.lane.limiter.active} retry permits")
    for cluster, endpoints in mesh.dump()["clusters"].items():
        found += [f"dump: {cluster} {e} {n}" for e, n in endpoints.items() if n]
    for engine in mesh._engines.values():
        found += [f"{t}: {s!r}" for t, s in engine.stats().items() if s.active]
    return found
