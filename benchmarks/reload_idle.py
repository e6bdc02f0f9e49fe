"""What watching policy files costs at rest, and how soon an edit is seen.

Run it alone: ``python benchmarks/reload_idle.py [files] [seconds]``. Prints the
CPU time of the control thread as a share of one core (budget: 0.2 % for 100
files), with inotify and with polling, and the latency of edits.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import MappingProxyType

from meshclient.control import Controller
from meshclient.control import watcher as watcher_module
from meshclient.control.inotify import Inotify
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint
from meshclient.model.snapshot import MeshConfig, Snapshot

BUDGET_PERCENT = 0.2
SETTLE_S = 4.0  # fresh files are looked at more often for two seconds


class Plane:
    def __init__(self, snapshot: Snapshot, _previous: Plane | None) -> None:
        self.snapshot = snapshot


def load(folder: Path) -> MeshConfig:
    ports = {p.name: json.loads(p.read_text())["port"] for p in folder.glob("*.json")}
    clusters = {n: Cluster(n, endpoints=(Endpoint("h", port),)) for n, port in ports.items()}
    return MeshConfig(clusters=MappingProxyType(clusters))


def write(folder: Path, number: int, port: int) -> None:
    text = json.dumps({"port": port, "padding": "x" * 4000})
    (folder / f"policy{number:04d}.json").write_text(text)


def cpu_percent(controller: Controller[Plane], seconds: float) -> float:
    """Share of one core that the control thread used, read on that thread."""
    time.sleep(SETTLE_S)

    async def thread_time() -> float:
        return time.thread_time()

    before = controller._thread.submit(thread_time()).result(10)
    started = time.monotonic()
    time.sleep(seconds)
    after = controller._thread.submit(thread_time()).result(10)
    return 100 * (after - before) / (time.monotonic() - started)


def latencies(controller: Controller[Plane], folder: Path, count: int = 20) -> list[float]:
    changed, result = threading.Event(), []
    unsubscribe = controller.subscribe(lambda _event: changed.set())
    for port in range(10, 10 + count):
        changed.clear()
        started = time.perf_counter()
        write(folder, 0, port)
        if not changed.wait(10):
            raise SystemExit("an edit was not seen within 10 s")
        result.append(1000 * (time.perf_counter() - started))
        time.sleep(0.05)
    unsubscribe()
    return result


def no_inotify() -> Inotify:
    raise OSError("switched off for this measurement")


def measure(title: str, files: int, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(files):
            write(folder, number, 1)
        controller = Controller(lambda: load(folder), Plane, watch=[folder])
        try:
            percent = cpu_percent(controller, seconds)
            times = latencies(controller, folder)
        finally:
            controller.close()
    print(
        f"{title:8} {files} files: {percent:.4f} % of a core at rest; an edit is visible after "
        f"{statistics.median(times):.0f} ms (median), {max(times):.0f} ms (worst of {len(times)})"
    )
    return percent


def main() -> int:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    worst = measure("inotify", files, seconds)
    original = watcher_module._Watcher.__init__
    watcher_module._Watcher.__init__ = (  # type: ignore[method-assign]
        lambda self, fingerprint, settings, _make: original(self, fingerprint, settings, no_inotify)
    )
    worst = max(worst, measure("polling", files, seconds))
    return 0 if worst <= BUDGET_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
