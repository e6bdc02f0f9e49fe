"""meshclient beside what it replaces, in one run: see ``benchmarks/README.md``.

Rounds are interleaved and every cell is a fresh process, so that a slow minute
of the machine hits all subjects. This file only orders and prints; what is
measured is in ``cell.py``, what is compared in ``subjects.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from server import Server
from sidecar import start_sidecar
from subjects import EXTRA_KINDS, KINDS

CELL = Path(__file__).with_name("cell.py")
CONCURRENCIES = (1, 16, 100)
#: Stock httpx keeps this many idle connections; above it, raised limits matter.
DEFAULT_KEEPALIVE = 20
CELL_LIMIT_S = 60.0

Point = tuple[str, int]  # mode, concurrency
Measured = dict[str, float]
Results = dict[Point, dict[str, list[Measured]]]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; ``--quick`` is about a minute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured per cell, default 2")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.5 s")
    parser.add_argument(
        "--only",
        default="",
        help=f"comma separated, any of: sync, async, a concurrency, {', '.join(KINDS)}, "
        f"{', '.join(EXTRA_KINDS)}; bare httpx always runs",
    )
    parser.add_argument("--json", type=Path, help="write every single measurement here")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 2, 0.5
    return options


def selection(only: str) -> tuple[list[Point], list[str]]:
    """The points and subjects to run. Unknown words end the program."""
    words = {word.strip() for word in only.split(",") if word.strip()}
    known = {"sync", "async", *map(str, CONCURRENCIES), *KINDS, *EXTRA_KINDS}
    if words - known:
        raise SystemExit(f"--only: unknown {', '.join(sorted(words - known))}")
    modes = [mode for mode in ("sync", "async") if mode in words] or ["sync", "async"]
    counts = [count for count in CONCURRENCIES if str(count) in words] or list(CONCURRENCIES)
    kinds = [kind for kind in (*KINDS, *EXTRA_KINDS) if kind in words] or list(KINDS)
    bare = [kind for kind in ("httpx", "httpx-raised") if kind not in kinds]
    return [(mode, count) for mode in modes for count in counts], bare + kinds


def measure(kind: str, point: Point, port: int, pid: int, seconds: float) -> Measured:
    """One cell in a fresh process. A failing cell ends the run with its output."""
    mode, concurrency = point
    command = [sys.executable, str(CELL), "--kind", kind, "--mode", mode]
    command += ["--concurrency", str(concurrency), "--port", str(port)]
    command += ["--seconds", str(seconds), "--sidecar-pid", str(pid)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=CELL_LIMIT_S, check=False
    )
    if done.returncode:
        raise SystemExit(f"{kind} {mode} {concurrency} failed:\n{done.stderr[-3000:]}")
    measured: Measured = json.loads(done.stdout)
    return measured


def run(options: argparse.Namespace) -> tuple[Results, str]:
    """All rounds; also the kind of server they ran against."""
    points, kinds = selection(options.only)
    results: Results = {point: {} for point in points}
    with ExitStack() as stack:
        server = stack.enter_context(Server())
        sidecar = stack.enter_context(start_sidecar(server.port)) if "sidecar" in kinds else None
        for number in range(options.rounds):
            for point in points:
                # Another order each round: nobody always runs after the same neighbour.
                turn = kinds[number % len(kinds) :] + kinds[: number % len(kinds)]
                for kind in turn:
                    if kind == "httpx-raised" and point[1] <= DEFAULT_KEEPALIVE:
                        continue
                    through = sidecar if kind == "sidecar" else None
                    port = through.ports[0] if through else server.port
                    pid = through.pid if through else 0
                    measured = measure(kind, point, port, pid, options.seconds)
                    results[point].setdefault(kind, []).append(measured)
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
        return results, server.kind


# --- printing -----------------------------------------------------------------------------------


def bare_cpu(subjects: dict[str, list[Measured]]) -> list[float]:
    """Per round, the better of bare httpx with default and with raised limits."""
    rounds = [subjects[kind] for kind in ("httpx", "httpx-raised") if kind in subjects]
    return [min(one["cpu_us"] for one in both) for both in zip(*rounds, strict=True)]


def spread(values: list[float]) -> str:
    """``min-median-max``."""
    return f"{min(values):.2f}-{statistics.median(values):.2f}-{max(values):.2f}"


def table(point: Point, subjects: dict[str, list[Measured]], unit_us: float | None) -> str:
    """One block of rows, in the order of the subjects."""
    bare = bare_cpu(subjects)
    in_b = f"{'in B':>7}" if unit_us else ""
    lines = [
        f"{point[0]}, concurrency {point[1]}",
        f"  {'':<16}{'req/s':>8}{'CPU us':>9}{in_b}{'p50 ms':>9}{'p99 ms':>9}"
        "   CPU / bare httpx (min-median-max)",
    ]
    for kind in (*KINDS, *EXTRA_KINDS):
        if kind not in subjects:
            continue
        cells = subjects[kind]
        middle = {key: statistics.median(cell[key] for cell in cells) for key in cells[0]}
        ratios = [cell["cpu_us"] / unit for cell, unit in zip(cells, bare, strict=True)]
        in_b = f"{middle['cpu_us'] / unit_us:>7.2f}" if unit_us else ""
        note = f"   (sidecar {middle['sidecar_us']:.0f} us)" if kind == "sidecar" else ""
        lines.append(
            f"  {kind:<16}{middle['rate']:>8.0f}{middle['cpu_us']:>9.0f}{in_b}"
            f"{middle['p50_ms']:>9.2f}{middle['p99_ms']:>9.2f}   {spread(ratios)}{note}"
        )
    return "\n".join(lines)


def unit(results: Results) -> float | None:
    """B: median CPU of a bare async GET at concurrency 1; None where it was not run."""
    subjects = results.get(("async", 1))
    return statistics.median(bare_cpu(subjects)) if subjects else None


def main() -> None:
    options = parse()
    results, server = run(options)
    unit_us = unit(results)
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, server {server}, "
        f"{options.rounds} rounds of {options.seconds:g} s per cell, load {os.getloadavg()[0]:.1f}"
    )
    if unit_us:
        print(f"B = {unit_us:.0f} us (bare httpx.AsyncClient GET, concurrency 1)")
    for point, subjects in results.items():
        print("\n" + table(point, subjects, unit_us))
    if options.json:
        flat = {f"{mode}-{count}": kinds for (mode, count), kinds in results.items()}
        options.json.write_text(json.dumps(flat, indent=1))


if __name__ == "__main__":
    main()
