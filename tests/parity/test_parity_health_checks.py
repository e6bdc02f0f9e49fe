"""Active health checks: the same answers in the same order lead to the same flags and counts.

Every check is held up at the upstream until flags and counters were read, so what is
compared is the state after each single answer, not a sample of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from meshclient.control import ControlThread
from meshclient.control.assemble import assemble
from meshclient.health_checks import HealthChecks
from meshclient.model.cluster import Cluster, ClusterPolicy
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import HealthCheck, flag_names
from meshclient.model.snapshot import MeshConfig
from meshclient.plane import build_plane

from .envoy import Envoy
from .health_scripts import SCRIPTS, Script, Seen

LIMIT_S = 25.0

COMMON = HealthCheck(
    "http",
    timeout_s=1.0,
    interval_s=0.1,
    no_traffic_interval_s=0.1,
    unhealthy_threshold=3,
    healthy_threshold=2,
)
HTTP = replace(COMMON, path="/check", receive=(b"fi", b"ne"), retriable_statuses=((429, 430),))
TCP = replace(COMMON, kind="tcp", send=b"PING", receive=(b"PONG",))
GRPC = replace(COMMON, kind="grpc", service="orders.v1.Orders")
ONE = {"unhealthy_threshold": 1, "healthy_threshold": 1}
FOUR = {"unhealthy_threshold": 4, "healthy_threshold": 3}


@dataclass
class Case:
    """What upstream ``kind`` answers, and how it is checked."""

    kind: str
    letters: str
    checks: tuple[HealthCheck, ...]
    protocol: str = "http1"


CASES: dict[str, Case] = {
    "http": Case("http", "+x++rrr++nnn++tx++", (HTTP,)),
    "http-soft": Case("http", "+rn+nhr+++nrt+n+t++", (HTTP,)),
    "http-first-fails": Case("http", "x+x++n++", (HTTP,)),
    "http-first-is-slow": Case("http", "tn+t++", (HTTP,)),
    "http-flags": Case("http", "dd+xd+X+X++R+RRR++d", (HTTP,)),
    "http-body": Case("http", "+b++bb++rb", (HTTP,)),
    "http-ones": Case("http", "+r+n+x+t+c+", (replace(HTTP, **ONE),)),
    "http-fours": Case("http", "+nnnn+++rrrr++x+++tttt", (replace(HTTP, **FOUR),)),
    "http-fresh": Case("http", "+cx++nn+c+", (replace(HTTP, reuse_connection=False),)),
    "http2": Case("h2", "+x++nnn++tnn++G+x", (replace(HTTP, retriable_statuses=()),), "h2"),
    "tcp": Case("tcp", "+nnn++hhh++wtn++", (TCP,)),
    "tcp-idle": Case("tcp", "+i+i+iii+++", (replace(TCP, unhealthy_threshold=2),)),
    "grpc": Case("grpc", "+x++s++e++h++p++2++0++nnn++t+", (GRPC,)),
    "grpc-goaway": Case("grpc", "+G+Gx+G+", (GRPC,)),
    "two-checks": Case(
        "http",
        "+x++nnn++",
        (replace(HTTP, name="ready"), replace(HTTP, name="live", path="/live")),
    ),
}


def random_cases(seed: int) -> dict[str, Case]:
    """Histories that nobody thought of; few time-outs, for they take their time."""
    draw = random.Random(seed)
    cases = {}
    for number in range(6):
        letters = "".join(draw.choices("+drRnhxXbct", [8, 2, 4, 1, 4, 2, 1, 1, 1, 2, 0.4], k=24))
        check = replace(
            HTTP,
            unhealthy_threshold=draw.randint(1, 4),
            healthy_threshold=draw.randint(1, 3),
        )
        cases[f"random-{number}"] = Case("http", letters, (check,))
    return cases


def cluster(name: str, case: Case, port: int) -> Cluster:
    policy = ClusterPolicy(health_checks=case.checks)
    endpoint = Endpoint("127.0.0.1", port)
    return Cluster(name, endpoints=(endpoint,), policy=policy, protocol=case.protocol)  # type: ignore[arg-type]


@contextmanager
def upstreams(cases: Mapping[str, Case]) -> Iterator[dict[str, Script]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(SCRIPTS[case.kind](name, case.letters))
            for name, case in cases.items()
        }


def clusters_at(scripts: Mapping[str, Script], cases: Mapping[str, Case]) -> dict[str, Cluster]:
    return {name: cluster(name, case, scripts[name].port) for name, case in cases.items()}


def look_at_envoy(envoy: Envoy, name: str) -> Seen:
    flags = ""
    for line in envoy.ask("/clusters")[1].decode().splitlines():
        if line.startswith(f"{name}::") and "::health_flags::" in line:
            flags = line.rpartition("::")[2]
    counters = {}
    wanted = f"cluster.{name}.health_check."
    for line in envoy.ask(f"/stats?filter={wanted}")[1].decode().splitlines():
        counter, _, value = line.partition(": ")
        if counter.startswith(wanted) and int(value):
            counters[counter.removeprefix(wanted)] = int(value)
    return flags, _comparable(counters)


def _comparable(counters: dict[str, int]) -> dict[str, int]:
    """Envoy's gauge ``degraded`` is raised but not lowered when an endpoint recovers."""
    return {name: value for name, value in counters.items() if value and name != "degraded"}


Pauses = dict[str, list[float]]


def through_envoy(
    cases: Mapping[str, Case], limit: float, pauses: Pauses | None = None
) -> dict[str, list[Seen]]:
    with upstreams(cases) as scripts, Envoy((), clusters_at(scripts, cases)) as envoy:
        for script in scripts.values():
            script.set_observer(lambda name: look_at_envoy(envoy, name))
        return finished(scripts, limit, pauses)


def through_ours(
    cases: Mapping[str, Case], limit: float, pauses: Pauses | None = None
) -> dict[str, list[Seen]]:
    with upstreams(cases) as scripts:
        config = MeshConfig(route_configurations={}, clusters=clusters_at(scripts, cases))
        plane = build_plane(assemble(config, {}, 1), None, lambda: 7)
        checks = HealthChecks(lambda: plane, time.monotonic, lambda: 1, id)

        def look(name: str) -> Seen:
            flags = flag_names(plane.clusters[name].states[0].flags)
            return flags, _comparable(checks.stats()[name])

        for script in scripts.values():
            script.set_observer(look)
        control = ControlThread()
        control.submit(checks.run())
        try:
            return finished(scripts, limit, pauses)
        finally:
            assert control.stop()


def finished(
    scripts: Mapping[str, Script], limit: float, pauses: Pauses | None
) -> dict[str, list[Seen]]:
    for name, script in scripts.items():
        left = limit - time.monotonic()
        assert script.done.wait(max(0.0, left)), f"{name}: only {len(script.seen)} checks came"
        if pauses is not None:
            pauses[name] = script.pauses()
    return {name: script.seen for name, script in scripts.items()}


def both(cases: Mapping[str, Case]) -> tuple[dict[str, list[Seen]], dict[str, list[Seen]]]:
    """What Envoy and we thought after each answer, at the same time."""
    limit = time.monotonic() + LIMIT_S
    theirs: dict[str, list[Seen]] = {}
    errors: list[BaseException] = []

    def envoy() -> None:
        try:
            theirs.update(through_envoy(cases, limit))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=envoy)
    thread.start()
    mine = through_ours(cases, limit)
    thread.join()
    if errors:
        raise errors[0]
    return mine, theirs


def test_flags_and_counters_after_each_answer(seed: int) -> None:
    cases = CASES | random_cases(seed)
    mine, theirs = both(cases)
    differences = []
    for name, case in cases.items():
        # Envoy counts two checks together, on time lines of their own.
        alike = (lambda seen: seen[0]) if len(case.checks) > 1 else (lambda seen: seen)
        assert len(theirs[name]) == len(case.letters), name
        for number, (ours, envoys) in enumerate(zip(mine[name], theirs[name], strict=True)):
            if alike(ours) != alike(envoys):
                done = case.letters[: number + 1]
                differences.append(f"{name} after {done}: ours {ours}, Envoy {envoys}")
                break
    assert not differences, f"seed {seed}\n" + "\n".join(differences)
    flags = {seen[0] for history in theirs.values() for seen in history}
    assert {
        "healthy",
        "/failed_active_hc",
        "/failed_active_hc/active_hc_timeout",
        "/degraded_active_hc",
        "/failed_active_hc/excluded_via_immediate_hc_fail",
    } <= flags, "the scripts lead everywhere"


def test_no_check_comes_before_its_time() -> None:
    """Without traffic; the interval begins when the check before it ends, not when it began."""
    check = replace(HTTP, no_traffic_interval_s=0.3, no_traffic_healthy_interval_s=0.15)
    letters, waits = "+xr++s+", (0.15, 0.3, 0.3, 0.3, 0.15, 0.15, 0.15)
    cases = {"rare": Case("http", letters, (check,))}
    for through in (through_envoy, through_ours):
        pauses: dict[str, list[float]] = {}
        through(cases, time.monotonic() + LIMIT_S, pauses)
        assert len(pauses["rare"]) == len(waits)
        for wait, pause in zip(waits, pauses["rare"], strict=True):
            assert pause > wait - 0.01, (through.__name__, pauses)
