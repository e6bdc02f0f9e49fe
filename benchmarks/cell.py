"""One cell of the comparison in a fresh process: one client, one mode, one concurrency.

Prints one JSON object. The sidecar's processor time is read from ``/proc`` and
added to the client's, since it is spent for the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from pathlib import Path

from server import BODY
from subjects import AsyncGet, Get, async_subject, seed, sync_subject

WARM_UP_S = 0.25
_NANOSECONDS = 1e-9


class Meter:
    """Counts between :meth:`start` and the end that the load sees in ``end``."""

    def __init__(self, seconds: float, sidecar: int) -> None:
        self.seconds = seconds
        self.sidecar = sidecar
        self.latencies: list[float] = []
        self.end = 0.0

    def start(self) -> None:
        """The warm-up is over."""
        self._other = sidecar_cpu_s(self.sidecar)
        self._cpu = time.process_time()
        self._began = time.perf_counter()
        self.end = self._began + self.seconds

    def stop(self) -> None:
        """Before anything is closed: closing is not part of a request."""
        self._elapsed = time.perf_counter() - self._began
        self._cpu = time.process_time() - self._cpu
        self._other = sidecar_cpu_s(self.sidecar) - self._other

    def result(self) -> dict[str, float]:
        """Totals and percentiles of the measured part."""
        ordered = sorted(self.latencies)
        count = len(ordered)
        if not count:
            raise RuntimeError("no request was finished")
        return {
            "requests": count,
            "rate": count / self._elapsed,
            "cpu_us": (self._cpu + self._other) / count * 1e6,
            "sidecar_us": self._other / count * 1e6,
            "p50_ms": ordered[count // 2] * 1e3,
            "p99_ms": ordered[min(count - 1, count * 99 // 100)] * 1e3,
        }


def sidecar_cpu_s(pid: int) -> float:
    """Processor seconds of all threads of ``pid``; 0 for pid 0."""
    if not pid:
        return 0.0
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total * _NANOSECONDS


def check(answer: tuple[int, int]) -> None:
    """A cell that measures failures measures nothing."""
    if answer != (200, len(BODY)):
        raise RuntimeError(f"unexpected answer {answer}")


def run_sync(kind: str, port: int, concurrency: int, meter: Meter) -> None:
    """``concurrency`` threads share one client."""
    failures: list[BaseException] = []
    with sync_subject(kind, port, concurrency) as get:
        check(get())
        barrier = threading.Barrier(concurrency, action=meter.start)
        threads = [
            threading.Thread(target=_thread, args=(get, meter, barrier, failures))
            for _ in range(concurrency)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        meter.stop()
    if failures:
        raise failures[0]


def _thread(
    get: Get, meter: Meter, barrier: threading.Barrier, failures: list[BaseException]
) -> None:
    try:
        warm = time.perf_counter() + WARM_UP_S
        while time.perf_counter() < warm:
            check(get())
        barrier.wait(30)
        clock, note, end = time.perf_counter, meter.latencies.append, meter.end
        began = clock()
        while began < end:
            check(get())
            now = clock()
            note(now - began)
            began = now
    except BaseException as error:
        failures.append(error)
        barrier.abort()


async def run_async(kind: str, port: int, concurrency: int, meter: Meter) -> None:
    """``concurrency`` tasks share one client on one loop."""
    async with async_subject(kind, port, concurrency) as get:
        check(await get())
        warm = time.perf_counter() + WARM_UP_S
        await asyncio.gather(*(_task(get, warm, None) for _ in range(concurrency)))
        meter.start()
        notes = (_task(get, meter.end, meter.latencies) for _ in range(concurrency))
        await asyncio.gather(*notes)
        meter.stop()


async def _task(get: AsyncGet, end: float, latencies: list[float] | None) -> None:
    clock = time.perf_counter
    began = clock()
    while began < end:
        check(await get())
        now = clock()
        if latencies is not None:
            latencies.append(now - began)
        began = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", required=True)
    parser.add_argument("--mode", choices=("sync", "async"), required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--sidecar-pid", type=int, default=0)
    options = parser.parse_args()
    seed()
    meter = Meter(options.seconds, options.sidecar_pid)
    if options.mode == "sync":
        run_sync(options.kind, options.port, options.concurrency, meter)
    else:
        asyncio.run(run_async(options.kind, options.port, options.concurrency, meter))
    print(json.dumps(meter.result()))


if __name__ == "__main__":
    main()
