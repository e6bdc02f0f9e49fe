"""Health, membership and balancers over the life of a mesh: ejections, reloads, forks."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from life_support import in_flight, wait_for, write
from servers.http import HttpServer, Recorded, Reply
from test_balancing_mesh import HOST, asked, ejected, named, native, servers, weights
from test_life_fork import in_child

from meshclient import Mesh
from meshclient.model.events import EndpointEjected, EndpointUnejected, Event

LONG = {
    "consecutive_5xx": 2,
    "interval": "50ms",
    "base_ejection_time": "60s",
    "max_ejection_percent": 50,
}


def ill(_request: Recorded) -> Reply:
    return Reply(503)


def ill_on_demand(request: Recorded) -> Reply:
    """Also for a caller in another process than the server."""
    return Reply(503 if request.header("x-ill") else 200, "a")


def eject_first(mesh: Mesh, running: list[HttpServer]) -> None:
    running[0].handler = ill_on_demand
    asked(mesh, "sync", [{"headers": {"x-ill": "1"}}] * 3 * len(running))
    wait_for(lambda: ejected(mesh) == 1, "the first one is ejected")


def test_an_ejection_outlives_a_reload_but_not_a_change_of_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with servers("abc") as running:
        fields: dict[str, Any] = {"load_balancing": "round_robin", "outlier_detection": LONG}
        write(path, native(running, **fields)[0])
        with Mesh.from_file(path) as mesh:
            eject_first(mesh, running)
            assert set(asked(mesh, "sync", [{}] * 8)) == {"b", "c"}
            heavier = [{"weight": 1}, {"weight": 3}, {"weight": 1}]
            write(path, native(running, *heavier, **fields)[0])
            wait_for(lambda: weights(mesh) == [1, 3, 1], "new weights")
            assert ejected(mesh) == 1
            assert Counter(asked(mesh, "sync", [{}] * 8)) == {"b": 6, "c": 2}
            fields["outlier_detection"] = {**LONG, "consecutive_5xx": 3}
            write(path, native(running, **fields)[0])
            wait_for(lambda: weights(mesh) == [1, 1, 1], "another policy")
            assert ejected(mesh) == 0
            assert set(asked(mesh, "sync", [{}] * 9)) == set("abc")


def test_events_and_explain_tell_of_an_ejection_and_its_end() -> None:
    told: list[Event] = []
    settings = {**LONG, "base_ejection_time": "150ms"}
    with servers("abc") as running:
        fields: dict[str, Any] = {"load_balancing": "round_robin", "outlier_detection": settings}
        with Mesh.from_documents(native(running, **fields)) as mesh:
            mesh.subscribe(told.append)
            eject_first(mesh, running)
            wait_for(lambda: any(isinstance(e, EndpointUnejected) for e in told), "its end")
            assert set(asked(mesh, "sync", [{}] * 9)) == set("abc")
            first = running[0].authority
    found = [
        (type(e), e.endpoint) for e in told if isinstance(e, EndpointEjected | EndpointUnejected)
    ]
    assert found == [(EndpointEjected, first), (EndpointUnejected, first)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_starts_healthy_and_ejects_for_itself() -> None:
    with servers("abc") as running:
        fields: dict[str, Any] = {"load_balancing": "round_robin", "outlier_detection": LONG}
        with Mesh.from_documents(native(running, **fields)) as mesh:
            eject_first(mesh, running)

            def child() -> None:
                assert ejected(mesh) == 0
                assert Counter(asked(mesh, "sync", [{}] * 9)) == {"a": 3, "b": 3, "c": 3}
                eject_first(mesh, running)  # takes an upkeep thread of the child's own
                assert set(asked(mesh, "sync", [{}] * 8)) == {"b", "c"}

            in_child(child)
            assert ejected(mesh) == 1
            assert set(asked(mesh, "sync", [{}] * 8)) == {"b", "c"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_forked_before_the_first_call_eject_each_for_itself() -> None:
    """As under a pre-forking server: the mesh is made, and nobody has called yet."""
    with servers("abc") as running:
        running[0].handler = ill_on_demand
        fields: dict[str, Any] = {"load_balancing": "round_robin", "outlier_detection": LONG}
        with Mesh.from_documents(native(running, **fields)) as mesh:

            def worker() -> None:
                assert set(asked(mesh, "sync", [{}] * 9)) == set("abc")
                eject_first(mesh, running)
                assert set(asked(mesh, "async", [{}] * 8)) == {"b", "c"}

            for _ in range(2):
                in_child(worker)
            assert set(asked(mesh, "sync", [{}] * 9)) == set("abc")


def test_a_mesh_without_anything_to_tend_starts_no_thread() -> None:
    def control() -> int:
        return sum("meshclient" in thread.name for thread in threading.enumerate())

    with servers("a") as running:
        before = control()
        with Mesh.from_documents(native(running)) as mesh:
            asked(mesh, "sync", [{}])
            assert control() == before
        with Mesh.from_documents(native(running, outlier_detection=LONG)) as mesh:
            asked(mesh, "sync", [{}])
            assert control() == before + 1


def test_weights_change_and_what_is_counted_stays(tmp_path: Path) -> None:
    path, gate = tmp_path / "policy.yaml", threading.Event()
    with servers("ab") as running:
        running[0].handler = lambda _request: Reply(200, "a", gate=gate)
        settings = {"load_balancing": {"policy": "peak_ewma"}}
        write(path, native(running, **settings)[0])
        with Mesh.from_file(path) as mesh:
            pending = [threading.Thread(target=asked, args=(mesh, "sync", [{}])) for _ in "12345"]
            for thread in pending:
                thread.start()
            wait_for(lambda: running[0].requests, "a call hangs")
            wait_for(lambda: in_flight(mesh) == len(running[0].requests), "the others ended")
            before = mesh.dump()["endpoints"][HOST]
            write(path, native(running, {"weight": 2}, {"weight": 7}, **settings)[0])
            wait_for(lambda: weights(mesh) == [2, 7], "new weights")
            after = mesh.dump()["endpoints"][HOST]
            assert [r["in_flight"] for r in after] == [r["in_flight"] for r in before]
            assert before[0]["in_flight"] > 0
            assert 0 < after[1]["ewma_ms"] <= before[1]["ewma_ms"]
            gate.set()
            for thread in pending:
                thread.join(10)
            assert in_flight(mesh) == 0


def test_a_draining_endpoint_finishes_its_calls_and_gets_no_more(tmp_path: Path) -> None:
    path, gate = tmp_path / "policy.yaml", threading.Event()
    ended: list[str] = []
    with servers("ab") as running:
        running[0].handler = lambda _request: Reply(200, "a", gate=gate)
        write(path, native(running[:1])[0])
        with Mesh.from_file(path) as mesh:
            call = threading.Thread(target=lambda: ended.extend(asked(mesh, "sync", [{}])))
            call.start()
            wait_for(lambda: running[0].requests, "it is on its way")
            write(path, native(running, {"health": "draining"}, {})[0])
            wait_for(lambda: len(weights(mesh)) == 2, "the other one is there")
            assert set(asked(mesh, "sync", [{}] * 6)) == {"b"}
            row = mesh.dump()["endpoints"][HOST][0]
            assert (row["in_flight"], bool(row["excluded"])) == (1, True)
            write(path, native(running[1:])[0])
            wait_for(lambda: len(weights(mesh)) == 1, "it has left the list")
            assert ended == []
            gate.set()
            call.join(10)
    assert ended == ["a"]


def test_health_checks_panic_and_a_second_priority() -> None:
    check = {"http": {"path": "/healthz"}, "interval": "50ms", "no_traffic_interval": "50ms"}
    placed: list[dict[str, Any]] = [{}, {}, {"priority": 1}]
    with servers("abc") as running:
        fields: dict[str, Any] = {"load_balancing": "round_robin", "health_check": check}
        with Mesh.from_documents(native(running, *placed, **fields)) as mesh:
            mesh.wait_ready()
            assert set(asked(mesh, "sync", [{}] * 8)) == {"a", "b"}
            down(running[0], "a")
            wait_for(lambda: load_of_the_second(mesh) == 30, "half of the first is out")
            found = Counter(asked(mesh, "async", [{}] * 60))
            assert found["a"] == 0
            assert found["c"] > 0, "half of the first priority means 70 % of the calls"
            down(running[1], "b")
            down(running[2], "c")
            wait_for(lambda: all(row["panic"] for row in mesh.dump()["endpoints"][HOST]), "panic")
            assert set(asked(mesh, "sync", [{}] * 60)) == set("abc")
            assert mesh.dump()["load_balancing"][HOST]["lb_healthy_panic"] > 0
            assert "panic: health is ignored" in str(mesh.explain("GET", f"http://{HOST}/"))


def down(server: HttpServer, name: str) -> None:
    """Fails its checks, and answers calls all the same."""
    server.handler = lambda request: Reply(503 if request.path == "/healthz" else 200, name)


def load_of_the_second(mesh: Mesh) -> int:
    """Percent of the calls that the second priority gets."""
    load = mesh.dump()["endpoints"][HOST][2]["priority_load"]
    assert isinstance(load, int)
    return load


def test_a_new_endpoint_is_warmed_up(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    settings = {
        "load_balancing": {
            "policy": "round_robin",
            "slow_start": {"window": "60s", "minimum_percent": 10},
        }
    }
    with servers("ab") as running:
        write(path, native(running[:1], **settings)[0])
        with Mesh.from_file(path) as mesh:
            time.sleep(0.05)
            write(path, native(running, **settings)[0])
            wait_for(lambda: len(weights(mesh)) == 2, "a second one")
            rows = mesh.dump()["endpoints"][HOST]
    assert all(0.1 <= row["effective_weight"] < 0.2 for row in rows)


def test_a_thousand_endpoints_replaced_are_one_rebuild(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with servers("a") as (server,):
        fleets = [
            [f"127.{n}.{i >> 8}.{i & 255}:{server.port}" for i in range(1000)] for n in (1, 2)
        ]

        def document(fleet: list[str]) -> dict[str, Any]:
            services = {HOST: {"endpoints": fleet}, "still.test": {"endpoints": [server.authority]}}
            return {"version": 1, "services": services}

        write(path, document(fleets[0]))
        with Mesh.from_file(path) as mesh:
            before, longest = mesh.snapshot.version, 0.0
            write(path, document(fleets[1]))
            with mesh.client(trust_env=False) as client:
                while mesh.snapshot.version == before:
                    began = time.monotonic()
                    assert client.get("http://still.test/").text == "a"
                    longest = max(longest, time.monotonic() - began)
            assert mesh.snapshot.version == before + 1
            assert {row["endpoint"] for row in mesh.dump()["endpoints"][HOST]} == set(fleets[1])
    assert longest < 1.0


def test_when_all_are_ejected_the_panic_threshold_decides() -> None:
    outlier = {**LONG, "consecutive_5xx": 1, "max_ejection_percent": 100}
    with servers("ab") as running:
        for threshold, status in ((50, 200), (0, 503)):
            for server in running:
                server.handler = ill
            settings = {"policy": "round_robin", "healthy_panic_threshold": threshold}
            documents = native(running, load_balancing=settings, outlier_detection=outlier)
            with (
                Mesh.from_documents(documents, local_replies="respond") as mesh,
                mesh.client(trust_env=False) as client,
            ):
                for _ in range(4):
                    client.get(f"http://{HOST}/")
                wait_for(lambda mesh=mesh: ejected(mesh) == 2, "both")
                for server in running:
                    server.handler = named("well")
                assert client.get(f"http://{HOST}/").status_code == status
