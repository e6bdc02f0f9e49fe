"""Resilience as a user sees it: policy files, real servers, every policy together."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from life_support import (
    PATIENCE_S,
    busy_connections,
    in_flight,
    nothing_left,
    wait_for,
    write,
)
from servers.http import HttpServer, Recorded, Reply

import meshclient
from meshclient import Mesh

HOST = "svc.test"


def serve(request: Recorded) -> Reply:
    """What the path asks for: a status, or ``ok`` after some time."""
    what = request.path.strip("/")
    wait_s = 0.12 if what == "slow" else 0.0
    return Reply(int(what) if what.isdecimal() else 200, what, delay_s=wait_s)


def document(*servers: HttpServer, **fields: Any) -> dict[str, Any]:
    service = {"endpoints": [server.authority for server in servers], **fields}
    return {"version": 1, "services": {HOST: service}}


def policy_file(path: Path, *servers: HttpServer, **fields: Any) -> Path:
    file = path / "policy.yaml"
    write(file, document(*servers, **fields))
    return file


def line_of(path: Path, key: str) -> str:
    """Where the block of ``key`` begins, as reports cite it."""
    lines = path.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
    return f"{path}:{at + 2}"  # the value begins on the line after its key


def told(found: Any) -> str:
    """All that the report and the error of a call say."""
    if isinstance(found, meshclient.CallError):
        assert found.report is not None
        return " | ".join((*found.report.notes, str(found)))
    return " | ".join(found.extensions["meshclient"].notes)


def calls(mesh: Mesh, how: str, paths: list[str], at_once: int = 1) -> list[Any]:
    """The responses or errors of GETs; the last ``at_once`` of them together."""
    one_by_one, together = paths[: len(paths) - at_once], paths[len(paths) - at_once :]
    if how == "async":
        return asyncio.run(_async_calls(mesh, one_by_one, together))
    with mesh.client(trust_env=False) as client:
        found = [_get(client, path) for path in one_by_one]
        several: list[Any] = []
        threads = [
            threading.Thread(target=lambda path=path: several.append(_get(client, path)))
            for path in together
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    return found + several


def _get(client: Any, path: str) -> Any:
    try:
        return client.get(f"http://{HOST}{path}")
    except meshclient.MeshError as error:
        return error


async def _async_calls(mesh: Mesh, one_by_one: list[str], together: list[str]) -> list[Any]:
    async with mesh.async_client(trust_env=False) as client:

        async def get(path: str) -> Any:
            try:
                return await client.get(f"http://{HOST}{path}")
            except meshclient.MeshError as error:
                return error

        found = [await get(path) for path in one_by_one]
        return found + list(await asyncio.gather(*map(get, together)))


# --- what a refused and a repeated call says ----------------------------------------------------

RETRIES = {"attempts": 2, "on": ["5xx"], "back_off": {"base": "1ms"}}
#: The policy, the calls, how many of them at once, what the report says, whose lines it cites.
REFUSALS: dict[str, tuple[dict[str, Any], list[str], int, list[str], str]] = {
    "an open breaker": (
        {"circuit_breaker": {"consecutive_failures": 2}},
        ["/500", "/500", "/"],
        1,
        ["the breaker of service svc.test is open", "consecutive_failures", "for 30.0 s more"],
        "circuit_breaker",
    ),
    "a retry that the breaker would refuse": (
        {"circuit_breaker": {"consecutive_failures": 1}, "retries": RETRIES},
        ["/500"],
        1,
        ["not repeated: the breaker of service svc.test is open (consecutive_failures)"],
        "circuit_breaker",
    ),
    "a rate limit": (
        {"rate_limit": {"max_tokens": 1, "fill_interval": "60s"}},
        ["/", "/"],
        1,
        ["rate limit of service svc.test", "all 1 tokens are taken, one comes every 60 s"],
        "rate_limit",
    ),
    "admission control": (
        {"admission_control": {"aggression": 1.0, "max_rejection": 100.0}},
        ["/500"] * 30 + ["/"] * 40,
        1,
        ["0 of", "calls succeeded in the last 30 s", "% are refused"],
        "admission_control",
    ),
    "adaptive concurrency": (
        {
            "adaptive_concurrency": {
                "fixed_min_rtt": "5ms",
                "min_concurrency": 1,
                "max_concurrency": 1,
            }
        },
        ["/slow"] * 3,
        3,
        ["adaptive concurrency of service svc.test: 1 calls are in flight"],
        "adaptive_concurrency",
    ),
    "a fault": (
        {"fault": {"abort": {"status": 555}}},
        ["/"],
        1,
        ["fault: aborted with status 555"],
        "fault",
    ),
    "too many requests": (
        {"limits": {"max_requests": 1}},
        ["/slow"] * 3,
        3,
        ["1 requests to the cluster are in flight (max_requests)"],
        "limits",
    ),
    "too many that wait for a connection": (
        {"limits": {"max_connections": 1, "max_pending_requests": 1}},
        ["/slow"] * 4,
        4,
        ["too many requests wait for a connection", "(max_pending_requests 1)"],
        "limits",
    ),
    "no permit for a retry": (
        {"retries": RETRIES, "limits": {"max_retries": 0}},
        ["/500"],
        1,
        ["as many retries under way as it allows: 0 of max_retries 0"],
        "limits",
    ),
    "Envoy's budget": (
        {"retries": {**RETRIES, "budget": {"percent": 20, "min_concurrency": 0}}},
        ["/500"],
        1,
        ["0 of 0 (budget: 20 % of the requests, at least 0)"],
        "retries",
    ),
    "Linkerd's budget": (
        {"retries": {**RETRIES, "budget": {"ttl": "1s", "ratio": 0.2, "min_per_second": 1}}},
        ["/500"],
        1,
        ["the retry budget is spent (0.2 for each answer of the last 1 s, 1 per second besides)"],
        "retries",
    ),
    "the Gateway API's budget": (
        {
            "retries": {
                **RETRIES,
                "budget": {"percent": 0, "min_retry_rate": {"count": 1, "interval": "10s"}},
            }
        },
        ["/500"],
        1,
        ["the retry budget is spent: 1 retries beside 1 requests in 10 s (0 %, and 1 in 10 s"],
        "retries",
    ),
    "retries": (
        {"retries": RETRIES},
        ["/503"],
        1,
        ["retry 1 of 2 after ", "retry 2 of 2 after ", "status 503, covered by 5xx", "used up"],
        "retries",
    ),
}


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_which_rule_which_line_and_which_numbers(
    case: str, how: str, tmp_path: Path
) -> None:
    fields, paths, at_once, words, key = REFUSALS[case]
    with HttpServer(serve) as server:
        file = policy_file(tmp_path, server, **fields)
        with Mesh.from_file(file) as mesh:
            found = [told(one) for one in calls(mesh, how, paths, at_once)]
            wait_for(lambda: in_flight(mesh) == 0)
    refused = [text for text in found if all(word in text for word in words)]
    assert refused, found
    assert line_of(file, key) in refused[-1], "it cites the document"


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_hedge_says_why_it_was_started(how: str, tmp_path: Path) -> None:
    def slow(_request: Recorded) -> Reply:
        return Reply(200, "slow", delay_s=0.3)

    with HttpServer(slow) as one, HttpServer(serve) as other:
        file = policy_file(
            tmp_path, one, other, load_balancing="round_robin", hedging={"delay": "20ms"}
        )
        with Mesh.from_file(file) as mesh:
            found = [told(one) for one in calls(mesh, how, ["/"] * 4)]
            wait_for(lambda: in_flight(mesh) == 0)
    hedged = [text for text in found if text]
    assert hedged
    assert all("hedged: try 2 beside try 1, which had no response head after" in t for t in hedged)
    assert str(file) in hedged[0]


def test_istio_documents_are_cited_by_name_and_line(tmp_path: Path) -> None:
    """A VirtualService's fault and retries, a DestinationRule's limits."""

    def resource(kind: str, **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": {"name": "payments", "namespace": "shop"},
            "spec": spec,
        }

    with HttpServer(serve) as server:
        endpoint = {"address": "127.0.0.1", "ports": {"http": server.port}}
        fault = {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}
        to = {"route": [{"destination": {"host": HOST}}]}
        documents = [
            resource(
                "ServiceEntry",
                hosts=[HOST],
                ports=[{"number": 80, "name": "http", "protocol": "HTTP"}],
                resolution="STATIC",
                endpoints=[endpoint],
            ),
            resource(
                "VirtualService",
                hosts=[HOST],
                http=[
                    {"match": [{"uri": {"exact": "/faulty"}}], "fault": fault, **to},
                    {"retries": {"attempts": 1, "retryOn": "5xx"}, **to},
                ],
            ),
            resource(
                "DestinationRule",
                host=HOST,
                trafficPolicy={"connectionPool": {"http": {"http2MaxRequests": 1}}},
            ),
        ]
        file = tmp_path / "istio.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        with Mesh.from_file(file, namespace="shop") as mesh:
            texts = [told(one) for one in calls(mesh, "sync", ["/faulty", "/503"])]
            texts += [told(one) for one in calls(mesh, "async", ["/slow"] * 3, 3)]
    assert "fault: aborted with status 418" in texts[0]
    assert "(VirtualService shop/payments)]" in texts[0]
    assert "retry 1 of 1 after" in texts[1]
    assert texts[1].count("(VirtualService shop/payments)]") == 2
    refused = [text for text in texts[2:] if "max_requests" in text]
    assert len(refused) == 2
    assert all("(DestinationRule shop/payments)]" in text for text in refused)


# --- all of it on one route ---------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "timeout": "5s",
    "load_balancing": "round_robin",
    "retries": {
        "attempts": 2,
        "on": ["reset", "503"],
        "per_try_timeout": "2s",
        "back_off": {"base": "2ms"},
        "budget": {"percent": 50, "min_concurrency": 3},
    },
    "hedging": {"delay": "15ms"},
    "circuit_breaker": {"failure_rate": 95, "minimum_calls": 50, "open_for": "100ms"},
    "outlier_detection": {"consecutive_5xx": 10, "max_ejection_percent": 50, "interval": "1s"},
    "limits": {"max_connections": 30, "max_pending_requests": 3000, "max_requests": 3000},
    "fault": {
        "delay": {"fixed_delay": "10ms", "percentage": 20},
        "abort": {"status": 503, "percentage": 5},
    },
    "rate_limit": {"max_tokens": 1_000_000},
    "admission_control": {"success_threshold": 20},
    "adaptive_concurrency": {
        "fixed_min_rtt": "1s",
        "min_concurrency": 1000,
        "max_concurrency": 1000,
    },
    "mirror": {"to": "copies", "percentage": 5},
    "fallback": {"on": ["local"], "respond": {"status": 299}},
}


def with_copies(policy: dict[str, Any], server: HttpServer) -> dict[str, Any]:
    policy["services"]["copies"] = {"endpoints": [server.authority]}
    return policy


def unsteady(_request: Recorded) -> Reply:
    """Now slow, now failing."""
    wait_s = 0.03 if random.random() < 0.1 else 0.0
    return Reply(503 if random.random() < 0.2 else 200, "x", delay_s=wait_s)


def at_rest(mesh: Mesh) -> bool:
    """No request, permit, token or probe is out."""
    lane = mesh._publisher.plane.clusters[HOST].lane
    filters = mesh._publisher.plane.filters.describe()
    held = [one.get("active_faults", 0) + one.get("in_flight", 0) for one in filters]
    counts = (in_flight(mesh), lane.limiter.active, busy_connections(mesh), sum(held))
    return (*counts, mesh.dump()["mirrors"]["in_flight"]) == (0, 0, 0, 0, 0)


def everything(tmp_path: Path, *servers: HttpServer, **others: Any) -> Path:
    file = tmp_path / "policy.yaml"
    write(file, with_copies(document(*servers, **{**EVERYTHING, **others}), servers[0]))
    return file


def test_a_hundred_threads_with_everything_on_leave_nothing(tmp_path: Path) -> None:
    seen: Counter[int] = Counter()
    with (
        HttpServer(unsteady) as one,
        HttpServer(unsteady) as other,
        nothing_left(),
        Mesh.from_file(everything(tmp_path, one, other)) as mesh,
        mesh.client(trust_env=False, timeout=15) as client,
    ):

        def work() -> None:
            for _ in range(3):
                seen[client.get(f"http://{HOST}/").status_code] += 1

        threads = [threading.Thread(target=work) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        wait_for(lambda: at_rest(mesh))
    assert seen.total() == 300
    assert set(seen) <= {200, 503, 299}
    assert seen[200] > 200


def test_a_thousand_tasks_cancellations_and_a_reload_leave_nothing(tmp_path: Path) -> None:
    """Cancelled when held by a fault, queued, under way, hedged, waiting for a retry."""
    seen: Counter[int] = Counter()

    async def run(mesh: Mesh, file: Path, servers: list[HttpServer]) -> None:
        async with mesh.async_client(trust_env=False, timeout=15) as client:

            async def get() -> None:
                seen[(await client.get(f"http://{HOST}/")).status_code] += 1

            await asyncio.gather(*(get() for _ in range(1000)))
            for wait_s in (0.0, 0.001, 0.005, 0.012, 0.018, 0.025):
                tasks = [asyncio.create_task(get()) for _ in range(40)]
                await asyncio.sleep(wait_s)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            before = seen.total()
            tasks = [asyncio.create_task(get()) for _ in range(200)]
            await asyncio.sleep(0.004)
            version = mesh.snapshot.version
            write(file, with_copies(document(servers[1], **EVERYTHING), servers[1]))
            await asyncio.gather(*tasks)
            assert seen.total() == before + 200
            await asyncio.to_thread(wait_for, lambda: mesh.snapshot.version > version)
            await get()
        await asyncio.to_thread(wait_for, lambda: at_rest(mesh))

    with HttpServer(unsteady) as one, HttpServer(unsteady) as other, nothing_left():
        file = everything(tmp_path, one, other)
        with Mesh.from_file(file) as mesh:
            asyncio.run(asyncio.wait_for(run(mesh, file, [one, other]), 30))
    assert set(seen) <= {200, 503, 299}


def test_a_fork_in_the_midst_of_held_calls_has_policies_of_its_own(tmp_path: Path) -> None:
    held = {"delay": {"fixed_delay": "300ms"}}
    with HttpServer(serve) as server, HttpServer(serve) as other:
        file = everything(tmp_path, server, other, fault=held, rate_limit={"max_tokens": 20})
        with Mesh.from_file(file) as mesh, mesh.client(trust_env=False) as client:
            threads = [
                threading.Thread(target=client.get, args=(f"http://{HOST}/",)) for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            wait_for(lambda: mesh._publisher.plane.filters.describe()[0]["active_faults"] == 8)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    assert at_rest(mesh)
                    code = 0 if client.get(f"http://{HOST}/").status_code == 200 else 2
                finally:
                    os._exit(code)
            for thread in threads:
                thread.join(PATIENCE_S)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            wait_for(lambda: at_rest(mesh))


WAITING: dict[str, dict[str, Any]] = {
    "held by a fault": {"fault": {"delay": {"fixed_delay": "30s"}}},
    "queued for a connection": {"limits": {"max_connections": 1}},
    "hedged": {"hedging": {"delay": "5ms"}},
    "in a back-off": {"retries": {**RETRIES, "back_off": {"base": "30s", "max": "60s"}}},
}


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("waiting", WAITING)
def test_closing_the_mesh_ends_calls_wherever_they_wait(
    waiting: str, how: str, tmp_path: Path
) -> None:
    def never(_request: Recorded) -> Reply:
        return Reply(503) if waiting == "in a back-off" else Reply(200, delay_s=30)

    with HttpServer(never) as one, HttpServer(never) as other:
        mesh = Mesh.from_file(policy_file(tmp_path, one, other, **WAITING[waiting]))
        closing = threading.Timer(0.15, mesh.close)
        closing.start()
        began = time.monotonic()
        found = calls(mesh, how, ["/"] * 6, 6)
        assert time.monotonic() - began < 5
        closing.join(PATIENCE_S)
        assert [type(one) for one in found if not isinstance(one, meshclient.MeshError)] == []
        assert in_flight(mesh) == 0


# --- the end of a program -----------------------------------------------------------------------

PROGRAM = """
    import asyncio, sys, threading, time
    import meshclient

    mesh = meshclient.Mesh.from_file(sys.argv[1])
    url = "http://svc.test/slow"
    client = mesh.client(trust_env=False)

    def work():
        while True:
            try:
                client.get(url)
            except meshclient.MeshError:
                pass

    for _ in range(8):
        threading.Thread(target=work, daemon=True).start()

    async def main():
        other = mesh.async_client(trust_env=False)
        tasks = asyncio.gather(*(other.get(url) for _ in range(20)), return_exceptions=True)
        await asyncio.wait([tasks], timeout=0.1)

    asyncio.run(main())
"""
ENDINGS: dict[str, dict[str, Any]] = {
    "hedging": {"hedging": {"delay": "5ms"}},
    "held by a fault": {"fault": {"delay": {"fixed_delay": "10s"}}},
    "a breaker and retries": {
        "circuit_breaker": {"consecutive_failures": 3, "open_for": "10ms"},
        "retries": {**RETRIES, "per_try_timeout": "20ms"},
    },
    "waiting for a connection": {"limits": {"max_connections": 1}},
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_in_silence_with_each_policy_at_work(ending: str, tmp_path: Path) -> None:
    with HttpServer(serve) as server, HttpServer(serve) as other:
        file = tmp_path / "policy.yaml"
        write(file, with_copies(document(server, other, **ENDINGS[ending]), server))
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(file)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.stderr, done.stdout, done.returncode) == ("", "", 0)
