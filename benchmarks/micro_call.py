"""The decision core alone: plan, pick, settle and close of one successful call, in B.

No client, no socket: what a call costs above the wire. B is the CPU of one bare
``httpx.AsyncClient`` GET at concurrency 1, measured in the same run between the
batches. Budget: 0.02 B.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from compare import measure
from server import Server
from subjects import native_document

import meshclient
from meshclient.call import Call
from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.outcome import Outcome
from meshclient.model.request import RequestHead
from meshclient.plane import Plane, build_plane

BATCH = 20_000
_RAW: RawHeaders = [(b"Host", b"echo"), (b"Accept", b"*/*"), (b"User-Agent", b"bench")]


def one_call(plane: Plane, rand: Callable[[], int]) -> None:
    """What a driver asks of the core for a call that succeeds at once."""
    head = RequestHead("GET", "http", "echo", 80, "/", HeaderMap(_RAW))
    call = Call(plane, head, 1.0, rand)
    attempt = call.next_attempt(1.0)
    call.settle(attempt, Outcome(200), 1.001)
    attempt.close(1.001)


def batch_us(plane: Plane, rand: Callable[[], int]) -> float:
    """CPU microseconds per call over one batch."""
    began = time.process_time()
    for _ in range(BATCH):
        one_call(plane, rand)
    return (time.process_time() - began) / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    rounds = parser.parse_args().rounds
    rand = random.Random(1)
    draw = lambda: rand.getrandbits(64)  # noqa: E731
    with Server() as server, meshclient.Mesh.from_documents([native_document(9)]) as mesh:
        plane = build_plane(mesh.snapshot, None, draw)
        batch_us(plane, draw)
        costs, units = [], []
        for _ in range(rounds):
            costs.append(batch_us(plane, draw))
            units.append(measure("httpx", ("async", 1), server.port, 0, 0.5)["cpu_us"])
    ratios = sorted(cost / unit for cost, unit in zip(costs, units, strict=True))
    print(f"plan + pick + settle + close: {statistics.median(costs):.2f} us")
    print(f"B: {statistics.median(units):.0f} us")
    middle = statistics.median(ratios)
    print(f"ratio: {ratios[0]:.4f}-{middle:.4f}-{ratios[-1]:.4f} B (min-median-max; budget 0.02)")


if __name__ == "__main__":
    main()
