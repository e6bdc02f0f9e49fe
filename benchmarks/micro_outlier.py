"""Nanoseconds that outlier detection adds to a call, and the time of a sweep. A few seconds.

No network: counting on the call path, and what the control thread does.
"""

from __future__ import annotations

import threading
import time
import timeit
from collections.abc import Callable
from functools import partial

from meshclient.balancing import EndpointState
from meshclient.model.endpoint import Endpoint
from meshclient.model.headers import HeaderMap
from meshclient.model.health import OutlierDetection
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.resilience import OutlierDetector

REPEATS = 7
CALLS = 100_000

OK = Outcome(200, HeaderMap([(b"Content-Type", b"text/plain"), (b"Content-Length", b"5")]))
ERROR = Outcome(503, OK.headers)
REFUSED = Outcome(reset=ResetReason.CONNECTION_FAILURE, sent=False)
SPLIT = OutlierDetection(split_external_local_origin_errors=True)


def detector_of(
    hosts: int, settings: OutlierDetection
) -> tuple[OutlierDetector, list[EndpointState]]:
    detector = OutlierDetector(settings, "bench", 0.0, lambda: 0)
    states = [
        EndpointState(Endpoint(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 80)) for i in range(hosts)
    ]
    detector.adopt(states, 0.0)
    return detector, states


def nanoseconds(function: Callable[[], object]) -> float:
    """Best of a few runs, with the empty call taken off."""
    empty = min(timeit.repeat(lambda: None, number=CALLS, repeat=REPEATS))
    best = min(timeit.repeat(function, number=CALLS, repeat=REPEATS))
    return max(0.0, best - empty) / CALLS * 1e9


def observing() -> None:
    print("ns per observe()")
    rows = [
        ("200", OutlierDetection(), (OK,)),
        ("200, split", SPLIT, (OK,)),
        ("200, looking for degraded ones", OutlierDetection(detect_degraded_hosts=True), (OK,)),
        ("503", OutlierDetection(), (ERROR,)),
        ("503 and 200 in turn", OutlierDetection(), (ERROR, OK)),
        ("refused, split", SPLIT, (REFUSED,)),
    ]
    for name, settings, outcomes in rows:
        detector, states = detector_of(3, settings)
        observe = partial(detector.observe, states[0])
        spent = sum(nanoseconds(partial(observe, one, 1.0, 2.0)) for one in outcomes)
        if len(outcomes) > 1:
            spent = nanoseconds(partial(_each, observe, outcomes)) / len(outcomes)
        print(f"  {name:32}{spent:8.0f}")
    stranger = EndpointState(Endpoint("10.9.9.9", 1))
    spent = nanoseconds(partial(detector_of(3, SPLIT)[0].observe, stranger, OK, 1.0, 2.0))
    print(f"  {'endpoint that is not watched':32}{spent:8.0f}")


def _each(observe: Callable[..., object], outcomes: tuple[Outcome, ...]) -> None:
    for outcome in outcomes:
        observe(outcome, 1.0, 2.0)


def threads() -> None:
    """The same counters from many threads at once: wall time per call, all threads together."""
    for count in (1, 10, 100):
        detector, states = detector_of(3, OutlierDetection())
        turns = 200_000 // count
        observe = partial(detector.observe, states[0])
        workers = [
            threading.Thread(target=_each, args=(observe, (OK,) * turns)) for _ in range(count)
        ]
        begun = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        spent = (time.perf_counter() - begun) / (turns * count) * 1e9
        print(f"  200, {count:3} threads{spent:27.0f}")


def sweeping() -> None:
    print("ms per sweep, every endpoint with 100 calls of which some fail")
    for hosts in (10, 1_000, 10_000):
        detector, states = detector_of(hosts, OutlierDetection(max_ejection_percent=0))
        for index, state in enumerate(states):
            for call in range(100):
                failed = call % 10 == 0 and index % 7 == 0
                detector.observe(state, ERROR if failed else OK, 0.0, 0.0)
        begun = time.perf_counter()
        events = detector.process(10.0)
        spent = (time.perf_counter() - begun) * 1e3
        print(f"  {hosts:6} endpoints{spent:25.2f}   ({len(events)} events)")


if __name__ == "__main__":
    observing()
    threads()
    sweeping()
