"""Errors that are not the mesh's pass through it unchanged, and leave nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from servers.http import Reply

from meshclient import Mesh

from .bodies import BIG
from .drivers import DRIVERS, NO_LIMIT, Driver, leftovers, make_mesh
from .scenario import Colour, Scenario
from .world import Time, World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def _broken_upload(colour: Colour) -> Any:
    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    async def async_pieces() -> AsyncIterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    return pieces() if colour == "sync" else async_pieces()


def _broken_hook(colour: Colour) -> Any:
    def hook(response: Any) -> None:
        raise ZeroDivisionError

    async def async_hook(response: Any) -> None:
        raise ZeroDivisionError

    return {"event_hooks": {"response": [hook if colour == "sync" else async_hook]}}


@dataclass(frozen=True)
class Trouble:
    """``error``: its name, in the client library or built in."""

    name: str
    error: str
    reply: Reply | None = None
    method: str = "GET"
    url: str = "http://svc/x"
    hooked: bool = False
    upload: bool = False

    def __str__(self) -> str:
        return self.name


TROUBLES = (
    Trouble("a hook that raises", "ZeroDivisionError", hooked=True),
    Trouble("an upload that raises", "ZeroDivisionError", method="PUT", upload=True),
    Trouble(
        "a body that is not what its encoding says",
        "DecodingError",
        Reply(200, BIG, [("Content-Encoding", "gzip")]),
    ),
    Trouble(
        "endless redirects",
        "TooManyRedirects",
        Reply(302, b"", [("Location", "http://svc/x")]),
    ),
    Trouble("a scheme that is not HTTP", "UnsupportedProtocol", url="wss://svc/x"),
)


def _client_options(driver: Driver, trouble: Trouble) -> dict[str, Any]:
    options = {"family": driver.family, "follow_redirects": True, **NO_LIMIT}
    return {**options, **_broken_hook(driver.colour)} if trouble.hooked else options


def _arguments(driver: Driver, trouble: Trouble) -> dict[str, Any]:
    return {"content": _broken_upload(driver.colour)} if trouble.upload else {}


def _call_sync(driver: Driver, trouble: Trouble, mesh: Mesh) -> str:
    with mesh.client(**_client_options(driver, trouble)) as client:
        try:
            client.request(trouble.method, trouble.url, **_arguments(driver, trouble))
        except Exception as error:
            return type(error).__name__
    return "no error"


async def _call_async(driver: Driver, trouble: Trouble, mesh: Mesh) -> str:
    async with mesh.async_client(**_client_options(driver, trouble)) as client:
        try:
            await client.request(trouble.method, trouble.url, **_arguments(driver, trouble))
        except Exception as error:
            raised = type(error).__name__
        else:
            raised = "no error"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await mesh.aclose()
    return raised


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_errors_of_others(driver: Driver, trouble: Trouble, world: World) -> None:
    world.begin((trouble.reply or Reply(200, BIG),))
    service = {"retries": {"attempts": 2, "on": ["5xx", "reset"]}}
    mesh = make_mesh(Scenario("", service=service), world, Time(time.monotonic), "raise")
    if driver.loop is None:
        raised = _call_sync(driver, trouble, mesh)
    else:
        with asyncio.Runner(loop_factory=driver.loop) as runner:
            raised = runner.run(_call_async(driver, trouble, mesh))
    assert raised == trouble.error
    assert leftovers(mesh) == []
    mesh.close()
    assert world.open_connections() == 0
