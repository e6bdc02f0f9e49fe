"""Every scenario through every driver: the same answers, attempts and requests; nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import failures, plain, refusals, retries, timeouts
from .drivers import DRIVERS, run
from .scenario import Expected, Observed, Run, Scenario
from .world import World

SCENARIOS = tuple(
    scenario
    for module in (plain, failures, retries, timeouts, refusals)
    for scenario in module.SCENARIOS
)

#: Headers of requests whose values the client libraries, time or chance decide.
_OWN = {
    "user-agent",
    "accept-encoding",
    "authorization",
    "x-envoy-expected-rq-timeout-ms",
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def problems(scenario: Scenario, done: Run, wanted: tuple[Expected, ...]) -> list[str]:
    """How a run differs from what the scenario says."""
    found = []
    for number, (seen, expected) in enumerate(zip(done.answers, wanted, strict=True)):
        found += [f"answer {number}: {text}" for text in _differences(seen, expected)]
    if done.arrivals != scenario.received:
        found.append(f"arrived {done.arrivals}, not {scenario.received}")
    if scenario.naps is not None and tuple(done.naps) != scenario.naps:
        found.append(f"waited {done.naps}, not {scenario.naps}")
    if done.left:
        found.append(f"left behind: {done.left}")
    return found


def _differences(seen: Observed, expected: Expected) -> Iterator[str]:
    for name in ("status", "error", "counterpart", "attempts", "flags", "history"):
        if getattr(seen, name) != getattr(expected, name):
            yield f"{name} is {getattr(seen, name)!r}, not {getattr(expected, name)!r}"
    if expected.body is not None and seen.body != expected.body:
        yield f"body is {seen.body[:100]!r}, not {expected.body[:100]!r}"
    retries = [note for note in seen.notes if note.startswith("retry ")]
    others = [note for note in seen.notes if note not in retries]
    if len(retries) != max(0, len(seen.attempts) - 1):
        yield f"not one note for each retry: {retries}"
    if expected.note:
        if len(others) != 1 or expected.note not in others[0]:
            yield f"notes are {others}, not one with {expected.note!r}"
    elif others:
        yield f"unexpected notes: {others}"
    for name, value in expected.headers.items():
        if seen.headers.get(name) != value:
            yield f"header {name} is {seen.headers.get(name)!r}, not {value!r}"


def essence(done: Run) -> list[object]:
    """What must be the same in every driver, headers included."""
    answers = [
        (a.status, a.error, a.counterpart, a.attempts, a.flags, a.notes, sorted(a.headers.items()))
        for a in done.answers
    ]
    requests = [
        (r.method, r.target, r.body, sorted(h for h in r.headers if h[0].lower() not in _OWN))
        for r in done.received
    ]
    return [answers, requests, done.naps]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_every_driver_does_the_same(scenario: Scenario, world: World) -> None:
    found = []
    runs = []
    for driver in DRIVERS:
        done = run(driver, scenario, world)
        runs.append(essence(done))
        found += [f"{driver}: {text}" for text in problems(scenario, done, scenario.expected)]
        if scenario.sees is not None:
            scenario.sees(done.received)
    assert not found, "\n".join(found)
    for driver, shown in zip(DRIVERS, runs, strict=True):
        assert shown == runs[0], f"{driver} differs from {DRIVERS[0]}"


def as_response(expected: Expected) -> Expected:
    """The twin of a failure under ``local_replies="respond"``."""
    if expected.reply is None:
        return expected
    status, body = expected.reply
    headers = {"content-length": str(len(body))}
    if body:
        headers["content-type"] = "text/plain"
    return Expected(
        status, body, "", "", expected.attempts, expected.flags, expected.note, headers=headers
    )


FAILING = tuple(s for s in SCENARIOS if any(e.error for e in s.expected))


@pytest.mark.parametrize("scenario", FAILING, ids=str)
def test_failures_as_envoys_responses(scenario: Scenario, world: World) -> None:
    wanted = tuple(as_response(expected) for expected in scenario.expected)
    found = []
    for driver in DRIVERS:
        done = run(driver, scenario, world, local_replies="respond")
        found += [f"{driver}: {text}" for text in problems(scenario, done, wanted)]
    assert not found, "\n".join(found)
