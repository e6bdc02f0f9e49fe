"""Admission control and adaptive concurrency: the same limits, refusals and statistics."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from typing import Any

from .limiting_world import Answer, Sides, World
from .traffic import Request, Step
from .upstream import Upstreams

Json = dict[str, Any]
_ON = {"default_value": True, "runtime_key": "not.set"}
_GET = Request("any")
Send = Callable[[str, Request, str], Answer]


def admission(name: str, theirs: Json, ours: Json) -> World:
    settings = {"enabled": _ON, "success_criteria": {}}
    kind = "admission_control.v3.AdmissionControl"
    chain = (("envoy.filters.http.admission_control", kind, settings | theirs),)
    return World(name, chain, {"admission_control": ours})


def _percent(value: float) -> Json:
    return {"default_value": {"value": value}, "runtime_key": "not.set"}


def _number(value: float) -> Json:
    return {"default_value": value, "runtime_key": "not.set"}


#: World, successes of five calls, and the share that the formula refuses.
SHARES: list[tuple[World, int, float]] = [
    (admission("fair", {}, {}), 2, 1 - 0.4 / 0.95),
    (admission("dead", {}, {}), 0, 0.8),
    (admission("well", {}, {}), 5, 0.0),
    (
        admission("steep", {"aggression": _number(2.0)}, {"aggression": 2}),
        3,
        sqrt(1 - 0.6 / 0.95),
    ),
    (
        admission(
            "tolerant",
            {"sr_threshold": _percent(70), "max_rejection_probability": _percent(30)},
            {"success_threshold": 70, "max_rejection": 30},
        ),
        1,
        0.3,
    ),
    (admission("quiet", {"rps_threshold": _number(100000)}, {"rps_threshold": 100000}), 0, 0.0),
]
_FIRST, _COUNTED = 100, 400
#: The first calls weigh on the share; 4 standard deviations of the rest.
_BOUND = 0.02 + 4 * sqrt(0.25 / _COUNTED)


def test_admission_control_refuses_the_same_share() -> None:
    worlds = [world for world, _, _ in SHARES]
    with Upstreams(("u0",)) as upstreams, Sides(worlds, upstreams.ports["u0"]) as sides:
        for world, successes, expected in SHARES:
            for side, send in (("envoy", sides.theirs), ("ours", sides.ours)):
                seen = _stream(upstreams, send, side, world.name, successes)
                refused = seen["refused"] / _COUNTED
                assert abs(refused - expected) <= (_BOUND if expected else 0), (world.name, side)
            theirs = sides.stats(f"http.{world.name}.admission_control")
            (ours,) = sides.filters(f"service {world.name}")
            total = {k.rpartition(".")[2]: v for k, v in theirs.items()}
            counts = ours.describe()
            names = ("rq_rejected", "rq_success", "rq_failure")
            assert sum(counts[name] for name in names) == sum(total[name] for name in names)
            if not expected:
                assert [counts[name] for name in names] == [total[name] for name in names]


def _stream(upstreams: Upstreams, send: Send, side: Any, name: str, successes: int) -> Counter[str]:
    good = upstreams.prepare(side, f"{name}-good", (Step(200),))
    bad = upstreams.prepare(side, f"{name}-bad", (Step(503, body="upstream"),))
    seen: Counter[str] = Counter()
    for number in range(_FIRST + _COUNTED):
        answer = send(name, _GET, good if number % 5 < successes else bad)
        if number >= _FIRST:
            refused = answer.status == 503 and answer.body == b""
            seen["refused" if refused else "passed"] += 1
            assert not refused or not answer.headers
    return seen


_PICKY = {
    "success_criteria": {
        "http_criteria": {
            "http_success_status": [{"start": 200, "end": 300}, {"start": 404, "end": 405}]
        },
        "grpc_criteria": {"grpc_success_status": [0, 14]},
    }
}
_JUDGES = [
    admission("lenient", {}, {}),
    admission("picky", _PICKY, {"http_success": [[200, 300], [404, 405]], "grpc_success": [0, 14]}),
]
_RPC = (("content-type", "application/grpc"),)
_ENDINGS = [(Request("any"), Step(code)) for code in (200, 302, 404, 405, 499, 500, 503)] + [
    (
        Request("any", "/s/M", "POST", _RPC),
        Step(200, (*_RPC, ("grpc-status", str(code))), body=""),
    )
    for code in (0, 1, 4, 5, 8, 12, 14, 16)
]


def test_admission_control_judges_endings_as_envoy_does() -> None:
    """One by one; a call that is refused on the way is sent again."""
    with Upstreams(("u0",)) as upstreams, Sides(_JUDGES, upstreams.ports["u0"]) as sides:
        for world in _JUDGES:
            for number, (request, step) in enumerate(_ENDINGS):
                judged = []
                for side, send in (("envoy", sides.theirs), ("ours", sides.ours)):
                    case = f"{world.name}-{number}"
                    for _ in range(200):
                        send(world.name, request, upstreams.prepare(side, case, (step,)))  # type: ignore[arg-type]
                        if upstreams.take(side, case):  # type: ignore[arg-type]
                            break
                    judged.append(_judged(sides, world.name, side))
                assert judged[0] == judged[1], (world.name, request, step)
        assert judged[0][1] >= 8


def _judged(sides: Sides, name: str, side: str) -> tuple[int, int]:
    if side == "ours":
        (ours,) = sides.filters(f"service {name}")
        return ours.rq_success, ours.rq_failure
    prefix = f"http.{name}.admission_control."
    stats = sides.stats(prefix)
    return stats[f"{prefix}rq_success"], stats[f"{prefix}rq_failure"]


def adaptive(name: str, theirs: Json, ours: Json) -> World:
    limits = {"concurrency_update_interval": "0.1s", "max_concurrency_limit": 200}
    gradient = {"concurrency_limit_params": limits, "min_rtt_calc_params": theirs}
    settings = {"gradient_controller_config": gradient, "enabled": _ON}
    chain = (
        (
            "envoy.filters.http.adaptive_concurrency",
            "adaptive_concurrency.v3.AdaptiveConcurrency",
            settings,
        ),
    )
    return World(name, chain, {"adaptive_concurrency": {"max_concurrency": 200, **ours}})


FIXED = adaptive("fixed", {"fixed_value": "0.06s"}, {"fixed_min_rtt": "60ms"})
MEASURED = adaptive(
    "measured",
    {"interval": "60s", "request_count": 6, "jitter": {"value": 0}},
    {"min_rtt_interval": "60s", "min_rtt_requests": 6, "jitter": 0},
)
#: Far from 60 ms the gradient is 2 or 1/2, whatever the latencies are exactly.
UP = [3, 8, 20, 46, 101, 200]
DOWN = [200, 110, 62, 36, 22, 14, 9, 6, 4, 3]


def test_limits_follow_latencies_as_in_envoy() -> None:
    with Upstreams(("u0",)) as upstreams, Sides([FIXED], upstreams.ports["u0"]) as sides:
        seen = _Watch(sides)
        _until(seen, sides, upstreams, Step(), 200, "up")
        assert seen.theirs == UP
        assert seen.ours == UP
        seen.theirs, seen.ours = [200], [200]
        _until(seen, sides, upstreams, Step(delay_s=0.17), 3, "down")
        assert seen.theirs == DOWN
        assert seen.ours == DOWN


class _Watch:
    """Every limit that was seen, in order."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._lock = threading.Lock()
        self._filter = sides.filters("service fixed")[0]
        self.theirs: list[int] = []
        self.ours: list[int] = []

    def look(self) -> tuple[int, int]:
        """The limits now."""
        name = "http.fixed.adaptive_concurrency.gradient_controller.concurrency_limit"
        theirs = self._sides.stats(name)[name]
        if not self.theirs or self.theirs[-1] != theirs:
            self.theirs.append(theirs)
        return theirs, self.look_at_ours()

    def look_at_ours(self) -> int:
        """It moves when calls begin and end, perhaps twice in a moment."""
        with self._lock:
            ours: int = self._filter.controller.limit
            if not self.ours or self.ours[-1] != ours:
                self.ours.append(ours)
            return ours


def _until(
    seen: _Watch, sides: Sides, upstreams: Upstreams, step: Step, goal: int, name: str
) -> None:
    """Calls on both sides, one after the other, until both limits are there."""
    over = threading.Event()

    def run(side: Any, send: Send) -> None:
        key = upstreams.prepare(side, name, (step,))
        while not over.is_set():
            send("fixed", _GET, key)
            seen.look_at_ours()
            over.wait(0.01)

    threads = [
        threading.Thread(target=run, args=one)
        for one in (("envoy", sides.theirs), ("ours", sides.ours))
    ]
    for thread in threads:
        thread.start()
    try:
        limit = time.monotonic() + 8
        while seen.look() != (goal, goal) and time.monotonic() < limit:
            time.sleep(0.015)
    finally:
        over.set()
        for thread in threads:
            thread.join(5)


def test_the_least_latency_is_measured_with_few_calls_at_a_time() -> None:
    from .envoy import EnvoyClient

    with Upstreams(("u0",)) as upstreams, Sides([MEASURED], upstreams.ports["u0"]) as sides:

        def theirs(key: str) -> tuple[int, bytes]:
            client = EnvoyClient(sides.envoy.ports)
            try:
                exchange = client.send(0, _GET, key)
            finally:
                client.close()
            return exchange.status, exchange.body

        def ours(key: str) -> tuple[int, bytes]:
            answer = sides.ours("measured", _GET, key)
            return answer.status, answer.body

        refused = (503, b"reached concurrency limit")
        for side, send in (("envoy", theirs), ("ours", ours)):
            key = upstreams.prepare(side, "burst", (Step(delay_s=0.25),))  # type: ignore[arg-type]
            with ThreadPoolExecutor(8) as threads:
                seen = Counter(threads.map(send, [key] * 8))
            assert seen == {(200, b"u0"): 3, refused: 5}, side
            quick = upstreams.prepare(side, "quick", (Step(delay_s=0.05),))  # type: ignore[arg-type]
            for _ in range(4):
                send(quick)
        prefix = "http.measured.adaptive_concurrency.gradient_controller."
        stats = {k.removeprefix(prefix): v for k, v in sides.stats(prefix).items()}
        (filter_,) = sides.filters("service measured")
        told = filter_.describe()
        assert told["rq_blocked"] == stats["rq_blocked"] == 5
        assert told["min_rtt_calculation_active"] == stats["min_rtt_calculation_active"] == 0
        # The middle of six latencies: three of 250 ms, three of 50 ms and a little.
        assert 50 <= stats["min_rtt_msecs"] < 90
        assert abs(1000 * told["min_rtt_s"] - stats["min_rtt_msecs"]) < 30
