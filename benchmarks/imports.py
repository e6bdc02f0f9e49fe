"""Cold import time and memory of meshclient beside httpx, in fresh processes.

Interleaved rounds; the least time of each counts, because everything that
disturbs an import makes it longer. Budgets: at most half of httpx's import
time, at most 25 MiB more resident memory than httpx with a client.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

_PROBE = """
import json, sys, time
def rss():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
before = rss(); began = time.perf_counter()
{code}
elapsed = time.perf_counter() - began
print(json.dumps([elapsed * 1e3, (rss() - before) / 1024, len(sys.modules)]))
"""
_DOCUMENT = '{"version": 1, "services": {"echo": {"endpoints": ["127.0.0.1:9"]}}}'

SUBJECTS = {
    "import httpx": "import httpx",
    "import meshclient": "import meshclient",
    "httpx, with a client": "import httpx; client = httpx.Client(trust_env=False)",
    "meshclient, with a client": "import meshclient; "
    f"mesh = meshclient.Mesh.from_documents([{_DOCUMENT}]); mesh.wait_ready(); "
    "client = mesh.client(trust_env=False)",
}


def measure(code: str) -> list[float]:
    """Milliseconds, MiB and modules of one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(code=code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{code!r} failed:\n{done.stderr[-2000:]}")
    values: list[float] = json.loads(done.stdout)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    rounds = parser.parse_args().rounds
    seen: dict[str, list[list[float]]] = {name: [] for name in SUBJECTS}
    for _ in range(rounds):
        for name, code in SUBJECTS.items():
            seen[name].append(measure(code))
    print(f"{'':<28}{'least ms':>9}{'median':>8}{'RSS MiB':>9}{'modules':>9}")
    for name, samples in seen.items():
        times = [sample[0] for sample in samples]
        memory = statistics.median(sample[1] for sample in samples)
        print(
            f"{name:<28}{min(times):>9.1f}{statistics.median(times):>8.1f}{memory:>9.1f}"
            f"{samples[0][2]:>9.0f}"
        )
    least = {name: min(sample[0] for sample in samples) for name, samples in seen.items()}
    memory_of = {name: statistics.median(s[1] for s in samples) for name, samples in seen.items()}
    ratio = least["import meshclient"] / least["import httpx"]
    added = memory_of["meshclient, with a client"] - memory_of["httpx, with a client"]
    print(f"\nimport meshclient / import httpx: {ratio:.2f} (budget 0.50)")
    print(f"memory that a mesh client adds to an httpx client: {added:.1f} MiB (budget 25)")


if __name__ == "__main__":
    main()
