"""What a whole resilience policy costs per call: ours, and other libraries' around bare httpx.

Three tables. The decision core with no policy and with the whole one, piece by piece; every
library around a function that does nothing; and whole GETs over a socket. CPU per call, in
microseconds and in B (one bare ``httpx.AsyncClient`` GET at concurrency 1, in the same run).
Budget: the whole policy adds at most 0.01 B to a call that succeeds.

    python benchmarks/stacks.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import httpx
from server import Server

import meshclient
from meshclient.call import Call
from meshclient.config import load_documents
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome
from meshclient.model.request import RequestHead
from meshclient.model.snapshot import Snapshot
from meshclient.plane import Plane, build_plane

BATCH = 4_000
GET_S = 0.35
BUDGET = 0.01
rand = partial(random.Random(1).getrandbits, 64)

NO_POLICY: dict[str, Any] = {"retries": {"attempts": 0}}
PIECES: dict[str, dict[str, Any]] = {
    "retry": {"retries": {"attempts": 2, "on": ["connect-failure", "reset", "503"]}},
    "retry, Envoy's budget": {
        "retries": {"attempts": 2, "on": ["503"], "budget": {"percent": 20}},
    },
    "retry, Linkerd's budget": {
        "retries": {"attempts": 2, "on": ["503"], "budget": {"ttl": "10s", "ratio": 0.2}},
    },
    "limits": {"limits": {"max_connections": 100, "max_requests": 200, "max_retries": 3}},
    "outlier detection": {"outlier_detection": {"consecutive_5xx": 5, "max_ejection_percent": 100}},
    "deadline": {"timeout": "5s"},
    "breaker": {"circuit_breaker": {"consecutive_failures": 5, "open_for": "30s"}},
}
WHOLE: dict[str, Any] = {
    "retries": {
        "attempts": 2,
        "on": ["connect-failure", "reset", "503"],
        "per_try_timeout": "2s",
        "budget": {"percent": 20, "min_concurrency": 3},
    },
    **PIECES["limits"],
    **PIECES["outlier detection"],
    **PIECES["deadline"],
    **PIECES["breaker"],
}

Work = Callable[[], object]
AsyncWork = Callable[[], Coroutine[Any, Any, Any]]


# --- the decision core --------------------------------------------------------------------------


def document(policy: dict[str, Any], port: int = 9) -> dict[str, Any]:
    """One service of one endpoint."""
    return {"version": 1, "services": {"echo": {"endpoints": [f"127.0.0.1:{port}"], **policy}}}


def plane_with(policy: dict[str, Any]) -> Plane:
    config = load_documents([document(policy)])
    snapshot = Snapshot(
        1, route_configurations=config.route_configurations, clusters=config.clusters
    )
    return build_plane(snapshot, None, lambda: 7)


def decision(plane: Plane) -> Work:
    """One call from its head to the close of its only try; the request is new each time."""
    outcome = Outcome(200, HeaderMap([(b"content-length", b"100")]))
    lines = [(b"Host", b"echo"), (b"Accept", b"*/*"), (b"User-Agent", b"x")]

    def work() -> None:
        head = RequestHead("GET", "http", "echo", 80, "/", HeaderMap(lines), "echo")
        call = Call(plane, head, 1.0, rand)
        attempt = call.next_attempt(1.0)
        call.settle(attempt, outcome, 1.001)
        attempt.close(1.001)

    return work


def cpu_us(work: Work) -> float:
    """Of one, over a batch."""
    began = time.process_time()
    for _ in range(BATCH):
        work()
    return (time.process_time() - began) / BATCH * 1e6


def measure_core(rounds: int) -> dict[str, list[float]]:
    """Interleaved, so that a slow moment hits all."""
    policies = {"no policy": NO_POLICY, **PIECES, "the whole policy": WHOLE}
    works = {name: decision(plane_with(policy)) for name, policy in policies.items()}
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):  # the first warms up
        for name, work in works.items():
            found[name].append(cpu_us(work))
    return {name: values[1:] for name, values in found.items()}


# --- the other libraries ------------------------------------------------------------------------

#: What every stack treats as a failure.
FAILURES = (httpx.HTTPError, ConnectionError)


def with_stamina(function: AsyncWork) -> AsyncWork:
    """Retries; it has nothing else."""
    import stamina

    return stamina.retry(on=FAILURES, attempts=3, timeout=5.0)(function)


def with_tenacity_and_pybreaker(function: AsyncWork) -> AsyncWork:
    """Retries, a breaker and a time limit, as their manuals say."""
    import pybreaker
    import tenacity

    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)

    async def guarded() -> object:
        with breaker.calling():
            async with asyncio.timeout(5.0):
                return await function()

    return tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(0.025, 0.25),
        retry=tenacity.retry_if_exception_type(FAILURES),
    )(guarded)


def with_hyx(function: AsyncWork) -> AsyncWork:
    """Retries, a breaker, a time limit and a bulkhead."""
    from hyx.bulkhead import bulkhead
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.retry import retry
    from hyx.timeout import timeout

    breaker = consecutive_breaker(exceptions=FAILURES, failure_threshold=5, recovery_time_secs=30)
    limited = bulkhead(max_concurrency=100, max_capacity=200)(timeout(5.0)(function))
    return retry(on=FAILURES, attempts=2, backoff=0.025)(breaker(limited))


def with_pyresilience(function: AsyncWork) -> AsyncWork:
    """Retries with a budget, a breaker, a time limit and a bulkhead."""
    import pyresilience as p

    around = p.resilient(
        retry=p.RetryConfig(max_attempts=3, delay=0.025, retry_on=FAILURES),
        retry_budget=p.RetryBudgetConfig(),
        timeout=p.TimeoutConfig(seconds=5.0),
        circuit_breaker=p.CircuitBreakerConfig(failure_threshold=5, recovery_timeout=30.0),
        bulkhead=p.BulkheadConfig(max_concurrent=100),
    )
    return around(function)


STACKS: dict[str, Callable[[AsyncWork], AsyncWork]] = {
    "stamina (retries alone)": with_stamina,
    "tenacity + pybreaker": with_tenacity_and_pybreaker,
    "hyx": with_hyx,
    "pyresilience": with_pyresilience,
}


def available(function: AsyncWork) -> dict[str, AsyncWork]:
    """Every library that is installed, around ``function``."""
    found: dict[str, AsyncWork] = {}
    for name, stack in STACKS.items():
        try:
            found[name] = stack(function)
        except ImportError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    return found


async def nothing() -> int:
    """What is wrapped."""
    return 200


async def async_cpu_us(work: AsyncWork, number: int = 1_000) -> float:
    began = time.process_time()
    for _ in range(number):
        await work()
    return (time.process_time() - began) / number * 1e6


async def measure_glue(rounds: int) -> dict[str, list[float]]:
    """Each stack around a function that does nothing."""
    async with meshclient.Mesh.from_documents([document(WHOLE)]) as mesh:
        await mesh.async_wait_ready()
        ours: AsyncWork = mesh.call("echo", idempotent=True)(nothing)
        works = {"bare": nothing, "meshclient": ours, **available(nothing)}
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds + 1):
            for name, work in works.items():
                found[name].append(await async_cpu_us(work))
    return {name: values[1:] for name, values in found.items()}


# --- whole calls --------------------------------------------------------------------------------


async def measure_gets(port: int, rounds: int) -> dict[str, list[float]]:
    """CPU of a GET over a kept-alive connection, through each stack."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        url = f"http://127.0.0.1:{port}/"

        async def bare() -> object:
            response = await client.get(url)
            return response.raise_for_status()

        works: dict[str, AsyncWork] = {"bare": bare, **available(bare)}
        for name, policy in (("meshclient, no policy", NO_POLICY), ("meshclient", WHOLE)):
            mesh = await stack.enter_async_context(
                meshclient.Mesh.from_documents([document(policy, port)])
            )
            await mesh.async_wait_ready()
            through = await stack.enter_async_context(mesh.async_client(trust_env=False))
            works[name] = partial(through.get, "http://echo/")
        found: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(rounds + 1):
            names = list(works)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found[name].append(await for_a_while(works[name]))
    return {name: values[1:] for name, values in found.items()}


async def for_a_while(work: AsyncWork) -> float:
    """CPU of one, in microseconds, over :data:`GET_S` seconds."""
    count, began, end = 0, time.process_time(), time.perf_counter() + GET_S
    while time.perf_counter() < end:
        await work()
        count += 1
    return (time.process_time() - began) / count * 1e6


# --- printing -----------------------------------------------------------------------------------


def rows(found: dict[str, list[float]], base: str, unit_us: float) -> None:
    """Medians, what each adds to ``base``, and the spread of that."""
    print(f"  {'':<28}{'CPU us':>9}{'added us':>10}{'added B':>10}   min-median-max of added B")
    for name, values in found.items():
        added = [value - other for value, other in zip(values, found[base], strict=True)]
        parts = sorted(value / unit_us for value in added)
        middle = statistics.median(parts)
        print(
            f"  {name:<28}{statistics.median(values):>9.2f}{middle * unit_us:>10.2f}{middle:>10.4f}"
            f"   {parts[0]:.4f}-{middle:.4f}-{parts[-1]:.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    rounds: int = parser.parse_args().rounds
    with Server() as server:
        gets = asyncio.run(measure_gets(server.port, rounds))
    unit_us = statistics.median(gets["bare"])
    core = measure_core(rounds)
    glue = asyncio.run(measure_glue(rounds))
    load = os.getloadavg()[0]
    version = platform.python_version()
    print(f"Python {version}, {rounds} rounds, load {load:.1f}, B = {unit_us:.0f} us")
    print("\nThe decision core: one call that succeeds")
    rows(core, "no policy", unit_us)
    print("\nAround an async function that does nothing")
    rows(glue, "bare", unit_us)
    print("\nA GET over a kept-alive connection (async, concurrency 1)")
    rows(gets, "bare", unit_us)
    own = statistics.median(gets["meshclient"]) - statistics.median(gets["meshclient, no policy"])
    print(f"\n  the policy's share of meshclient's GET: {own:.1f} us = {own / unit_us:.4f} B")
    added = statistics.median(core["the whole policy"]) - statistics.median(core["no policy"])
    verdict = "within" if added / unit_us <= BUDGET else "OVER"
    print(f"  in the decision core: {added:.2f} us = {added / unit_us:.4f} B, {verdict} {BUDGET} B")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
