"""The contract's scenarios on the other engines: what each can do, and what it cannot, by name.

What is compared are answers, errors, attempts and requests. An entry of ``UNABLE`` is a
claim like any other: a scenario listed there must really fail on that engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meshclient import Mesh

from . import drivers, failures, plain, refusals, timeouts
from .drivers import DRIVERS, Driver, run
from .scenario import Scenario
from .test_contract import problems
from .world import World

SCENARIOS = plain.SCENARIOS + failures.SCENARIOS + timeouts.SCENARIOS + refusals.SCENARIOS
CHOSEN = tuple(d for d in DRIVERS if d.name in ("httpx-sync", "httpx-asyncio"))

#: What an engine cannot do, by scenario, and why.
UNABLE: dict[str, dict[str, str]] = {
    "httpcore": {},
    "httpx": {},
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def on_engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the drivers' meshes use an engine."""

    def choose(name: str) -> None:
        def make(*arguments: Any, **options: Any) -> Mesh:
            return Mesh(*arguments, engine=name, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(drivers, "Mesh", make)

    return choose


@pytest.mark.parametrize("driver", CHOSEN, ids=str)
@pytest.mark.parametrize("engine", sorted(UNABLE))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_engine_keeps_the_contract(
    scenario: Scenario, engine: str, driver: Driver, world: World, on_engine: Any
) -> None:
    on_engine(engine)
    found = problems(scenario, run(driver, scenario, world), scenario.expected)
    if scenario.name in UNABLE[engine]:
        assert found, f"{engine} can do it now: drop it from UNABLE"
    else:
        assert not found, "\n".join(found)
