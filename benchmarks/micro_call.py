"""What a call costs above the wire, piece by piece: microseconds, and parts of B.

No client at work, no socket. B is the CPU of one bare ``httpx.AsyncClient`` GET at
concurrency 1, measured in the same run between the batches, against a server in
a process of its own. Budget: plan, pick, settle and close of one call: 0.02 B.

    python benchmarks/micro_call.py [--rounds 5] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
from compare import measure
from server import Server
from subjects import native_document

import meshclient
from meshclient.call import Call
from meshclient.clients.families import family_of
from meshclient.clients.http_common import body_of, request_head, wire_request
from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.outcome import Outcome
from meshclient.model.request import RequestHead
from meshclient.plane import Plane, build_plane

Piece = Callable[[], object]

BATCH = 5_000
HOSTS = 1000
BUDGET = 0.02
rand = partial(random.Random(1).getrandbits, 64)

#: What httpx itself sends.
_USUAL: RawHeaders = [
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Connection", b"keep-alive"),
    (b"User-Agent", b"python-httpx/0.28"),
]
_ANSWER: RawHeaders = [
    (b"Server", b"nginx"),
    (b"Date", b"Sat, 01 Jan 2028 00:00:00 GMT"),
    (b"Content-Type", b"text/plain"),
    (b"Content-Length", b"100"),
    (b"Connection", b"keep-alive"),
]

_ISTIO: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "reviews"},
        "spec": {"ports": [{"port": 9080, "name": "http"}], "selector": {"app": "reviews"}},
    },
    *(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"reviews-v{n}",
                "labels": {"app": "reviews", "version": f"v{n}"},
            },
            "spec": {"containers": [{"name": "c"}]},
            "status": {"podIP": f"10.0.0.{n}", "phase": "Running"},
        }
        for n in (1, 2, 3)
    ),
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "reviews"},
        "spec": {
            "host": "reviews",
            "subsets": [{"name": f"v{n}", "labels": {"version": f"v{n}"}} for n in (1, 2, 3)],
        },
    },
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "reviews"},
        "spec": {
            "hosts": ["reviews"],
            "http": [
                {
                    "match": [{"headers": {"end-user": {"exact": "jason"}}}],
                    "route": [{"destination": {"host": "reviews", "subset": "v2"}}],
                },
                {
                    "route": [
                        {"destination": {"host": "reviews", "subset": "v1"}, "weight": 90},
                        {"destination": {"host": "reviews", "subset": "v3"}, "weight": 10},
                    ]
                },
            ],
        },
    },
]


def plane_of(documents: list[dict[str, Any]]) -> Plane:
    """What calls under ``documents`` read."""
    with meshclient.Mesh.from_documents(documents) as mesh:
        return build_plane(mesh.snapshot, None, rand)


def call(plane: Plane, host: str, port: int, *more: tuple[bytes, bytes]) -> Piece:
    """What a driver asks of the core for a call that succeeds at once."""
    raw: RawHeaders = [(b"Host", host.encode()), *_USUAL, *more]
    headers = HeaderMap(_ANSWER)

    def one() -> None:
        head = RequestHead("GET", "http", host, port, "/", HeaderMap(raw), host)
        made = Call(plane, head, 1.0, rand)
        attempt = made.next_attempt(1.0)
        made.settle(attempt, Outcome(200, headers), 1.001)
        attempt.close(1.001)
        assert made.error is None

    return one


def calls() -> dict[str, Piece]:
    """Whole calls of the core; the budget is theirs."""
    native = plane_of([native_document(9)])
    service = native_document(9)["services"]["echo"]
    many = {f"host{n}": service for n in range(HOSTS)}
    istio = plane_of(_ISTIO)
    jason = (b"end-user", b"jason")
    return {
        "call: one native service, timeout and retries": call(native, "echo", 80),
        "call: Istio bookinfo, weighted split": call(istio, "reviews", 9080),
        "call: Istio bookinfo, header route": call(istio, "reviews", 9080, jason),
        f"call: one of {HOSTS} native services": call(
            plane_of([{"version": 1, "services": many}]), "host500", 80
        ),
        "call: a host without policy": call(native, "other", 80),
    }


def edges() -> dict[str, Piece]:
    """What the httpx drivers do around a call."""
    request = httpx.Request("GET", "http://echo/")
    family = family_of(request)
    plane = plane_of([native_document(9)])
    made = Call(plane, request_head(request), 1.0, rand)
    attempt = made.next_attempt(1.0)
    attempt.close(1.0)

    def response() -> object:
        return family.response(
            200,
            headers=_ANSWER,
            stream=family.byte_stream(b"x" * 100),
            extensions={
                "http_version": b"HTTP/1.1",
                "reason_phrase": b"OK",
                "meshclient": made.report,
            },
        )

    return {
        "edge: family and body of an httpx.Request": lambda: body_of(request, family_of(request)),
        "edge: RequestHead of an httpx.Request": lambda: request_head(request),
        "edge: WireRequest": lambda: wire_request(made, attempt, None, {}),
        "edge: httpx.Response": response,
    }


def batch_us(piece: Piece) -> float:
    """CPU microseconds per go over one batch."""
    began = time.process_time()
    for _ in range(BATCH):
        piece()
    return (time.process_time() - began) / BATCH * 1e6


def profile(pieces: dict[str, Piece]) -> None:
    """Where the time of each call goes, most expensive first."""
    for name, piece in pieces.items():
        profiler = cProfile.Profile()
        profiler.runcall(batch_us, piece)
        print(f"\n{name}")
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--profile", action="store_true", help="show where the time goes, no B")
    options = parser.parse_args()
    whole = calls()
    if options.profile:
        profile(whole)
        return
    pieces = {**whole, **edges()}
    costs: dict[str, list[float]] = {name: [] for name in pieces}
    units = []
    for piece in pieces.values():
        batch_us(piece)
    with Server() as server:
        for _ in range(options.rounds):
            for name, piece in pieces.items():
                costs[name].append(batch_us(piece))
            units.append(measure("httpx", ("async", 1), server.port, 0, 0.5)["cpu_us"])
    print(f"B: {statistics.median(units):.0f} us ({min(units):.0f}-{max(units):.0f})")
    print(f"{'':48}{'us':>8}{'min':>9}{'median':>9}{'max':>9}  B")
    for name, found in costs.items():
        ratios = sorted(cost / unit for cost, unit in zip(found, units, strict=True))
        middle = statistics.median(ratios)
        over = "  over the budget" if name in whole and middle > BUDGET else ""
        print(
            f"{name:48}{statistics.median(found):8.2f}"
            f"{ratios[0]:9.4f}{middle:9.4f}{ratios[-1]:9.4f}{over}"
        )


if __name__ == "__main__":
    main()
