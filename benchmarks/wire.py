"""CPU per request of HTTP clients beside ours, in one run, against one nginx.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.wire [--seconds 0.6] [--rounds 3] [--concurrency 1 16 100 1000]
                              [--sizes 100 1000000 100000000] [--only async] [--memory]
                              [--wires http1 http1-tls http2-tls http2] [--clients httpx mesh]

Every cell (what is spoken, client, body size, concurrency) is a process of its own, in
shuffled order, each round anew; the tables give medians, and ratios to httpx. ``mesh`` is a
mesh client to a host that no policy knows: the httpx API over our engine; ``engine`` is the
engine alone. The server's CPU is not counted. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.server import _free_port, _wait_for
from benchmarks.wire_clients import ASYNC, SYNC, WIRES, Task

Sample = tuple[float, float, float]  # requests per second, CPU us per request, MB per second
Cell = tuple[str, str, str, int, int]  # wire, kind, client, size, concurrency

_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; sendfile on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  ssl_certificate {folder}/c.pem; ssl_certificate_key {folder}/k.pem;
  server {{
    root {folder}/files;
    listen 127.0.0.1:{http1} backlog=4096;
    listen 127.0.0.1:{http1_tls} ssl backlog=4096;
    listen 127.0.0.1:{http2_tls} ssl http2 backlog=4096;
    listen 127.0.0.1:{http2} http2 backlog=4096;
  }}
}}
"""


@contextmanager
def server(sizes: list[int]) -> Iterator[tuple[dict[str, str], str]]:
    """nginx with one file per size; gives its URL per wire, and its certificate."""
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        raise SystemExit("this benchmark needs nginx")
    folder = Path(tempfile.mkdtemp(prefix="bench-wire-"))
    ports = {wire: _free_port() for wire in WIRES}
    (folder / "files").mkdir(parents=True)
    folder.chmod(0o755)
    for size in sizes:
        (folder / "files" / str(size)).write_bytes(b"x" * size)
    _make_certificate(folder)
    config = folder / "nginx.conf"
    named = {wire.replace("-", "_"): port for wire, port in ports.items()}
    config.write_text(_NGINX.format(folder=folder, **named))
    command = [nginx, "-p", str(folder), "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(ports["http1"], process)
        scheme = {wire: "https" if wire.endswith("tls") else "http" for wire in WIRES}
        yield (
            {wire: f"{scheme[wire]}://localhost:{port}" for wire, port in ports.items()},
            str(folder / "c.pem"),
        )
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "k.pem"),
         "-out", str(folder / "c.pem")],
        check=True, capture_output=True,
    )  # fmt: skip


# -- measuring ----------------------------------------------------------------------


async def _async_cell(name: str, task: Task, seconds: float) -> Sample:
    count = 0

    async with ASYNC[name](task) as call:

        async def worker(until: float) -> None:
            nonlocal count
            while True:
                assert await call() == task.size
                count += 1
                if time.perf_counter() >= until:
                    return

        async def run(duration: float) -> None:
            until = time.perf_counter() + duration
            await asyncio.gather(*(worker(until) for _ in range(task.concurrency)))

        await run(seconds / 3)
        count = 0
        wall, cpu = time.perf_counter(), time.process_time()
        await run(seconds)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return count / wall, cpu / count * 1e6, count * task.size / wall / 1e6


def _sync_cell(name: str, task: Task, seconds: float) -> Sample:
    with SYNC[name](task) as call:
        counts: list[int] = []
        failed: list[Exception] = []

        def worker(until: float) -> None:
            count = 0
            try:
                while not count or time.perf_counter() < until:
                    assert call() == task.size
                    count += 1
            except Exception as error:
                failed.append(error)
            counts.append(count)

        def run(duration: float) -> None:
            until = time.perf_counter() + duration
            threads = [
                threading.Thread(target=worker, args=(until,)) for _ in range(task.concurrency)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        run(seconds / 3)
        counts.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        run(seconds)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if failed:  # httpx's threads get into each other's way on one HTTP/2 connection
        print(f"{task.wire} {name}: {len(failed)} threads stopped early: {failed[0]!r}")
    count = sum(counts) or 1
    return count / wall, cpu / count * 1e6, count * task.size / wall / 1e6


def _cell(kind: str, name: str, task: Task, seconds: float) -> Sample:
    _raise_file_limit()
    if kind == "sync":
        return _sync_cell(name, task, seconds)
    return asyncio.run(_async_cell(name, task, seconds))


def _idle_memory(name: str, task: Task) -> float:
    """Kilobytes of resident memory per idle connection."""
    _raise_file_limit()

    async def run() -> float:
        async with ASYNC[name](task) as call:
            await call()
            before = _resident()
            await asyncio.gather(*(call() for _ in range(task.concurrency)))
            return (_resident() - before) / task.concurrency / 1024

    return asyncio.run(run())


def _raise_file_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _resident() -> int:
    import ctypes
    import gc

    gc.collect()
    with suppress(AttributeError):  # what glibc holds back of freed memory is nobody's
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


# -- what is run, and the tables ------------------------------------------------------


def _cells(given: argparse.Namespace) -> list[Cell]:
    kinds = [("async", name) for name in ASYNC] + [("sync", name) for name in SYNC]
    return [
        (wire, kind, name, size, concurrency)
        for wire in given.wires
        for kind, name in kinds
        for size in given.sizes
        for concurrency in given.concurrency
        if given.only in (None, kind)
        and name in (given.clients or (name,))
        and name in (WIRES[wire] or (name,))
    ]


def _run(given: argparse.Namespace, urls: dict[str, str], ca: str) -> dict[Cell, list[Sample]]:
    results: dict[Cell, list[Sample]] = {cell: [] for cell in _cells(given)}
    for _ in range(given.rounds):
        for cell in random.sample(list(results), len(results)):
            wire, kind, name, size, concurrency = cell
            task = Task(wire, f"{urls[wire]}/{size}", ca, size, concurrency)
            results[cell].append(_in_a_process(_cell, kind, name, task, given.seconds))
    return results


def _table(results: dict[Cell, list[Sample]]) -> None:
    for group in sorted({(cell[0], cell[1], *cell[3:]) for cell in results}):
        wire, kind, size, concurrency = group
        print(f"\n{wire}, {kind}, {size:,} B, concurrency {concurrency}")
        base = results.get((wire, kind, "httpx", size, concurrency))
        bare = statistics.median(s[1] for s in base) if base else float("nan")
        for cell, samples in results.items():
            if (cell[0], cell[1], *cell[3:]) == group:
                rate, cpu, megabytes = (statistics.median(x) for x in zip(*samples, strict=True))
                print(
                    f"  {cell[2]:14}{cpu:12.1f} us CPU{cpu / bare:8.3f} x httpx"
                    f"{rate:10.0f}/s{megabytes:10.1f} MB/s"
                )


def _memory(given: argparse.Namespace, urls: dict[str, str], ca: str) -> None:
    for wire in given.wires:
        if wire.startswith("http1"):  # over HTTP/2 the calls share a connection
            for name in ASYNC:
                task = Task(wire, f"{urls[wire]}/100", ca, 100, 300)
                used = _in_a_process(_idle_memory, name, task)
                print(f"{wire:10}{name:14}{used:8.1f} KB per idle connection")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000_000])
    parser.add_argument("--wires", choices=WIRES, nargs="+", default=["http1"])
    parser.add_argument("--clients", choices=sorted({*ASYNC, *SYNC}), nargs="+")
    parser.add_argument("--only", choices=["sync", "async"])
    parser.add_argument("--memory", action="store_true", help="memory per idle connection only")
    given = parser.parse_args()
    with server(sorted({100, *given.sizes})) as (urls, ca):
        if given.memory:
            _memory(given, urls, ca)
        else:
            _table(_run(given, urls, ca))


if __name__ == "__main__":
    main()
