"""Outlier detection: the same flags, counters, rates and events as the real Envoy's.

Envoy gets real requests to scripted endpoints; our side gets the same ends of calls,
with a clock of its own that moves from sweep to sweep.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from meshclient.balancing import EndpointState
from meshclient.model.endpoint import Endpoint
from meshclient.model.events import (
    EndpointDegraded,
    EndpointEjected,
    EndpointUndegraded,
    EndpointUnejected,
    Event,
)
from meshclient.model.health import flag_names
from meshclient.resilience.outlier import OutlierDetector

from .envoy import Envoy
from .outlier_scenarios import CALLS, INTERVAL_S, STEADY, TIMED, Sent, Steady, Timed
from .outlier_world import TheirSide, World, bootstrap, read_events
from .upstream import Upstreams

#: What a slow machine spoils is repeated in the next world of the same name.
TRIES = 5
#: Timed scenarios that run at a time.
LANES = 4
START = 1000.0
MOST_HOSTS = 19
_SWEEP_LIMIT_S = 10.0


class Straddled(Exception):
    """The machine was too slow: a sweep came in the middle of a burst, or was missed."""


class OurSide:
    """Our detector over the same endpoints. ``now`` is whatever the test says."""

    def __init__(self, world: World) -> None:
        self.now = START
        self.events: list[Event] = []
        self.states = [EndpointState(Endpoint("127.0.0.1", port)) for port in world.ports]
        self.detector = OutlierDetector(world.settings, world.name, self.now, lambda: 99)
        self.detector.adopt(self.states, self.now)

    def send(self, sent: Sent) -> None:
        """One call; what it leads to happens at once."""
        host, name = sent
        call, state = CALLS[name], self.states[host]
        urgent = self.detector.observe(state, call.outcome(), self.now, self.now)
        if call.broken is not None:
            urgent |= self.detector.observe_broken_body(state, call.broken)
        if urgent:
            self.events += self.detector.process(self.now)

    def sweep(self) -> None:
        """Move the clock to the next sweep."""
        self.now = self.detector.next_due
        self.events += self.detector.process(self.now)

    def told(self) -> list[tuple[Any, ...]]:
        """The events in the form of Envoy's log."""
        hosts = {state.key: host for host, state in enumerate(self.states)}
        out: list[tuple[Any, ...]] = []
        for event in self.events:
            if isinstance(event, EndpointEjected):
                # What the percentage holds back, Envoy only counts.
                if event.withheld != "max_ejection_percent":
                    out.append((hosts[event.endpoint], "EJECT", event.reason, event.enforced))
            elif isinstance(event, EndpointDegraded):
                out.append((hosts[event.endpoint], "EJECT", "degraded", True))
            elif isinstance(event, (EndpointUnejected, EndpointUndegraded)):
                out.append((hosts[event.endpoint], "UNEJECT"))
        return out


class Arena:
    """The running Envoy, a world per scenario, and what our side told of each."""

    def __init__(self, envoy: Envoy, upstreams: Upstreams, worlds: dict[str, World]) -> None:
        self.envoy = envoy
        self.upstreams = upstreams
        self.worlds = worlds
        self.told: dict[str, list[tuple[Any, ...]]] = {}


@pytest.fixture(scope="module")
def event_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outlier") / "events"


@pytest.fixture(scope="module")
def arena(event_log: Path) -> Iterator[Arena]:
    names = tuple(f"up{number}" for number in range(MOST_HOSTS))
    with Upstreams(names) as upstreams:
        ports = tuple(upstreams.ports.values())
        refused = upstreams.refused_port()
        scenarios: list[Steady | Timed] = [*STEADY, *TIMED]
        worlds = {
            name: World(name, (*ports[: scenario.hosts], refused), scenario.settings)
            for scenario in scenarios
            for name in _names(scenario)
        }
        with Envoy([], {}, bootstrap(list(worlds.values()), event_log)) as envoy:
            yield Arena(envoy, upstreams, worlds)


def _names(scenario: Steady | Timed) -> list[str]:
    tries = TRIES if isinstance(scenario, Timed) else 1
    return [f"{scenario.name}.{number}" for number in range(tries)]


@pytest.mark.parametrize("scenario", STEADY, ids=lambda scenario: scenario.name)
def test_every_call_leads_to_what_it_leads_to_in_envoy(arena: Arena, scenario: Steady) -> None:
    world = arena.worlds[f"{scenario.name}.0"]
    run = Run(arena, world, "steady")
    for number, (host, name) in enumerate(scenario.calls):
        run.send(host, name)
        assert _mine(run.ours) == run.theirs_now(), f"after call {number}: {name} on {host}"
    arena.told[world.name] = run.ours.told()


def test_every_sweep_does_what_it_does_in_envoy(arena: Arena) -> None:
    """A few scenarios at a time, for most of their time is waiting."""
    with ThreadPoolExecutor(LANES) as lanes:
        runs = [lanes.submit(_play, arena, scenario) for scenario in TIMED]
        told = [run.result() for run in runs]
    assert sum(map(len, told)) >= 2 * len(TIMED), "scenarios in which nothing happens"


def test_the_events_are_those_of_envoys_log(arena: Arena, event_log: Path) -> None:
    """The last test: Envoy writes its log out as it ends."""
    arena.envoy.close()
    logged = read_events(event_log, list(arena.worlds.values()))
    assert {name: _by_host(logged[name]) for name in arena.told} == {
        name: _by_host(told) for name, told in arena.told.items()
    }


def _by_host(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """In order for each host: Envoy's order of hosts in a sweep is that of its hash table.

    What is only detected, ours tells once between sweeps; no scenario needs it twice.
    """
    once: dict[tuple[Any, ...], None] = {}
    kept = []
    for event in sorted(events, key=lambda event: event[0]):
        if event[-1] is False and event in once:
            continue
        once[event] = None
        kept.append(event)
    return kept


def _play(arena: Arena, scenario: Timed) -> list[tuple[Any, ...]]:
    for name in _names(scenario):
        try:
            told = _run(arena, arena.worlds[name], scenario)
        except Straddled:
            continue
        arena.told[name] = told
        return told
    raise AssertionError(f"{scenario.name}: the machine was too slow {TRIES} times")


def _run(arena: Arena, world: World, scenario: Timed) -> list[tuple[Any, ...]]:
    run = Run(arena, world, world.name)
    run.next_sweep()
    for number, (calls, sweeps) in enumerate(scenario.bursts):
        run.ours.now += INTERVAL_S / 10  # a burst comes soon after a sweep, but after it
        for host, name in calls:
            run.send(host, name)
        run.check_in_time()
        where = f"{world.name}, burst {number}"
        assert _mine(run.ours) == run.theirs_now(), where
        for sweep in range(sweeps):
            run.next_sweep()
            assert _everything_mine(run.ours) == run.everything_theirs(), f"{where}, {sweep}"
    return run.ours.told()


def _mine(ours: OurSide) -> tuple[list[str], dict[str, int]]:
    return [flag_names(state.flags) for state in ours.states], ours.detector.stats


def _everything_mine(ours: OurSide) -> tuple[Any, ...]:
    told = [ours.detector.describe(state, ours.now) for state in ours.states]
    rates = [
        (round(told["success_rate"], 3), round(told["local_origin_success_rate"], 3))
        for told in told
    ]
    averages = {name: round(value, 3) for name, value in ours.detector.averages.items()}
    return _mine(ours), rates, averages


class Run:
    """Both sides of one world. One thread owns it.

    Envoy's sweeps are seen by a call to host 0 in every second interval: the rate that
    Envoy shows of that host then changes with each sweep.
    """

    def __init__(self, arena: Arena, world: World, side: str) -> None:
        self._theirs = TheirSide(arena.envoy, arena.upstreams, side)
        self._world = world
        self.ours = OurSide(world)
        self._shown = "-1"
        self._swept_at = 0.0

    def send(self, host: int, name: str) -> None:
        """The same call on both sides."""
        call = CALLS[name]
        self._theirs.send(self._world, host % len(self._world.ports), call.step, call.headers)
        self.ours.send((host, name))

    def theirs_now(self) -> tuple[list[str], dict[str, int]]:
        """Flags and counters; raises if a sweep came that was not waited for."""
        stats = self._theirs.stats(self._world)
        hosts = self._theirs.hosts(self._world)
        if hosts[0]["success_rate"] != self._shown:
            raise Straddled
        return [host["health_flags"] for host in hosts.values()], stats

    def everything_theirs(self) -> tuple[Any, ...]:
        """Rates and averages, too."""
        hosts = self._theirs.hosts(self._world).values()
        rates = [
            (
                round(float(host["success_rate"]), 3),
                round(float(host["local_origin_success_rate"]), 3),
            )
            for host in hosts
        ]
        averages = self._theirs.averages(self._world)
        rounded = {name: round(value, 3) for name, value in averages.items()}
        return self.theirs_now(), rates, rounded

    def next_sweep(self) -> None:
        """Wait for Envoy's next sweep, do ours, and mark the interval that begins."""
        limit = time.monotonic() + _SWEEP_LIMIT_S
        if not self._swept_at:
            self.send(0, "200")
        before, looked_at = self._swept_at, time.monotonic()
        while (shown := self._look()) == self._shown:
            assert looked_at < limit, "Envoy does not sweep"
            time.sleep(INTERVAL_S / 20)
            looked_at = time.monotonic()
        self._swept_at = looked_at
        if before and self._swept_at - before > 1.5 * INTERVAL_S:
            raise Straddled  # two sweeps may look like one
        self._shown = shown
        self.ours.sweep()
        if shown == "-1":
            self.send(0, "200")

    def check_in_time(self) -> None:
        """The burst came soon enough after the sweep for the times that scenarios name."""
        if time.monotonic() - self._swept_at > 0.5 * INTERVAL_S:
            raise Straddled

    def _look(self) -> str:
        return self._theirs.hosts(self._world)[0]["success_rate"]
