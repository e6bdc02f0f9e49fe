"""Istio's bookinfo on this machine, without Istio: real processes, Istio's YAML, meshclient.

Shows a 90/10 split, a route for one user, a policy edit picked up while
traffic runs, the retries that hide a killed instance, and a circuit breaker around a failing
one. Ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

import meshclient

sys.path.insert(0, str(Path(__file__).parent))

from bookinfo.cluster import Instance, cluster_yaml, routing_yaml

LAYOUT = [
    ("productpage", "v1", 1),
    ("details", "v1", 1),
    ("ratings", "v1", 1),
    ("reviews", "v1", 2),
    ("reviews", "v2", 1),
    ("reviews", "v3", 2),
]
WORKERS = 4
LIVE = sys.stdout.isatty()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def plan() -> list[Instance]:
    names = [(app, version, n) for app, version, count in LAYOUT for n in range(1, count + 1)]
    ports = free_ports(len(names))
    return [Instance(*name, port) for name, port in zip(names, ports, strict=True)]


def write(folder: Path, name: str, text: str) -> None:
    """Replace a file the way careful tools do: write beside it, then rename."""
    fresh = folder / f".{name}.tmp"
    fresh.write_text(text)
    fresh.rename(folder / name)


@contextlib.contextmanager
def running(
    instances: list[Instance], policies: Path
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    program = Path(__file__).parent / "bookinfo" / "service.py"
    processes = {
        i.pod: subprocess.Popen(
            [sys.executable, program, i.app, i.version, str(i.port), str(policies)]
        )
        for i in instances
    }
    try:
        for instance in instances:
            wait_for(instance.port, processes[instance.pod])
        yield processes
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.wait(5)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"the process for port {port} did not start")


class Phase:
    """Traffic for a while, with its counts."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.versions: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.failures: Counter[str] = Counter()
        self.retried = 0
        self.lock = threading.Lock()

    def call(self, client: httpx.Client, user: str) -> str:
        started = time.perf_counter()
        headers = {"end-user": user} if user else {}
        try:
            page = client.get("http://productpage:9080/productpage", headers=headers).json()
            version = page["reviews"]["served_by"]
        except (httpx.HTTPError, KeyError, ValueError) as error:
            with self.lock:
                self.failures[type(error).__name__] += 1
            return ""
        took = time.perf_counter() - started
        with self.lock:
            self.versions[version] += 1
            self.latencies.append(took)
            self.retried += page["tries"] > 1
        return version

    def line(self) -> str:
        total = self.versions.total() or 1
        shares = "  ".join(
            f"{name} {count:4d} ({100 * count / total:3.0f} %)"
            for name, count in sorted(self.versions.items())
        )
        return f"{shares}   failed {self.failures.total()}   retried {self.retried}"

    def summary(self) -> str:
        ranked = sorted(self.latencies) or [0.0]
        p50 = statistics.median(ranked) * 1000
        p99 = ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))] * 1000
        return f"{self.line()}   p50 {p50:.1f} ms  p99 {p99:.1f} ms"

    def run(self, client: httpx.Client, user: str, seconds: float) -> None:
        print(f"\n== {self.title}")
        end = time.monotonic() + seconds

        def work() -> None:
            while time.monotonic() < end:
                self.call(client, user)

        with ThreadPoolExecutor(WORKERS) as pool:
            jobs = [pool.submit(work) for _ in range(WORKERS)]
            while time.monotonic() < end:
                time.sleep(min(0.25, max(0.0, end - time.monotonic())))
                if LIVE:
                    print(f"\r   {self.line()}\033[K", end="", flush=True)
            for job in jobs:
                job.result()
        print(("\r" if LIVE else "") + f"   {self.summary()}" + ("\033[K" if LIVE else ""))


def edit_under_traffic(client: httpx.Client, folder: Path) -> None:
    """Swap the split and report how long it takes until a call shows it."""
    phase = Phase("")
    write(folder, "routing.yaml", routing_yaml(v1=0, v3=100))
    written = time.monotonic()
    in_a_row, first = 0, written
    while time.monotonic() - written < 5:
        started = time.monotonic()
        if phase.call(client, "") != "reviews-v3":
            in_a_row = 0
            continue
        in_a_row += 1
        first = started if in_a_row == 1 else first
        if in_a_row == 20:  # v1 has no share any more: this is no accident
            print(f"   in force for calls made {1000 * (first - written):.0f} ms after the write")
            return
    raise SystemExit("the edit was never picked up")


def guarded(instances: list[Instance]) -> dict[str, Any]:
    """The same reviews in meshclient's own short format, with a breaker for each instance."""
    return {
        "version": 1,
        "services": {
            "reviews": {
                "endpoints": [f"127.0.0.1:{one.port}" for one in instances],
                "load_balancing": "round_robin",
                "retries": {"attempts": 1, "on": ["503"]},
                "circuit_breaker": {
                    "consecutive_failures": 3,
                    "open_for": "1s",
                    "per": "endpoint",
                },
            }
        },
    }


def say(event: meshclient.BreakerEvent, since: float) -> None:
    words = {
        meshclient.BreakerOpened: "opens",
        meshclient.BreakerHalfOpen: "is half_open: one call finds out",
        meshclient.BreakerClosed: "is closed again",
    }
    why = ""
    if isinstance(event, meshclient.BreakerOpened):
        failures = f", {event.failures_in_a_row} failures in a row" * bool(event.failures_in_a_row)
        why = f" for {event.for_s:g} s ({event.reason.replace('_', ' ')}{failures})"
    after_s = time.monotonic() - since
    print(f"   {after_s:4.1f} s  breaker of {event.endpoint} {words[type(event)]}{why}", flush=True)


def breaker_scene(instances: list[Instance]) -> int:
    """One of two instances answers 503 for a while; how many calls failed."""
    print("\n== one of two reviews instances answers 503 for 2.5 s; each has a circuit breaker")
    sick = f"http://127.0.0.1:{instances[0].port}"
    results: Counter[int] = Counter()
    tries = 0
    started = time.monotonic()
    with (
        meshclient.Mesh.from_documents([guarded(instances)]) as mesh,
        mesh.client() as client,
        httpx.Client() as bare,
    ):
        mesh.breaker("reviews").subscribe(lambda event: say(event, started))
        steps = [(0.5, "/break"), (3.0, "/mend")]
        while (now := time.monotonic() - started) < 5.0:
            if steps and now >= steps[0][0]:
                bare.get(sick + steps.pop(0)[1])
            response = client.get("http://reviews/reviews/0")
            results[response.status_code] += 1
            tries += len(response.extensions["meshclient"].attempts)
            time.sleep(0.002)
    failed = results.total() - results[200]
    spared = tries - results.total()
    print(f"   {results.total()} calls, {failed} failed, {spared} tries met the failing instance")
    return failed


def demo(folder: Path) -> int:
    started = time.monotonic()
    instances = plan()
    write(folder, "cluster.yaml", cluster_yaml(instances))
    write(folder, "routing.yaml", routing_yaml(v1=90, v3=10))
    print(f"starting {len(instances)} processes of bookinfo ...")
    phases = [
        Phase("everybody: 90 % to reviews v1, 10 % to v3"),
        Phase("the user jason: always v2, by a header"),
        Phase("after the edit: everybody on v3"),
        Phase("one of the two v3 instances is killed under traffic"),
    ]
    with running(instances, folder) as processes, meshclient.Mesh.from_file(folder) as mesh:
        with mesh.client(timeout=10.0) as client:
            phases[0].run(client, "", 5)
            phases[1].run(client, "jason", 3)
            print("\n== the split in routing.yaml is edited, nothing is restarted")
            edit_under_traffic(client, folder)
            phases[2].run(client, "", 3)
            victim = next(i for i in instances if i.app == "reviews" and i.version == "v3")
            killer = threading.Timer(1.5, processes[victim.pod].send_signal, [signal.SIGKILL])
            killer.start()
            phases[3].run(client, "", 5)
            killer.join()
        broken = breaker_scene([i for i in instances if (i.app, i.version) == ("reviews", "v1")])
        print("\n== why does jason get v2?\n")
        print(mesh.explain("GET", "http://reviews:9080/reviews/0", {"end-user": "jason"}))
    print("\n== summary")
    for phase in phases:
        print(f"   {phase.title}\n      {phase.summary()}")
    failed = broken + sum(phase.failures.total() for phase in phases)
    calls = sum(phase.versions.total() for phase in phases)
    print(f"\n{calls} calls, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    with tempfile.TemporaryDirectory(prefix="bookinfo-") as temporary:
        sys.exit(demo(Path(temporary)))
