"""Damages answers for as long as it is told to, and prints what h11 sees otherwise.

    python -m tests.fuzz.long_run --seconds 3600 [--seed 1]

Exit code 1 when there was a finding. Each finding is written to
``tests/fuzz/corpus/found-<n>.bin``, so that the short run has it from then on. Plain
random damage, without coverage guidance.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from random import Random

from tests.fuzz import mutate, oracle

_MAX_FINDINGS = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    rand, seeds = Random(options.seed), mutate.seeds()
    pool = list(seeds)
    seen: Counter[str] = Counter()
    findings: list[str] = []
    until = time.monotonic() + options.seconds
    while time.monotonic() < until and len(findings) < _MAX_FINDINGS:
        data = mutate.mutate(rand, rand.choice(pool), seeds)
        reason, problem = examine(rand, data)
        if reason not in seen and not problem:
            pool.append(data)  # the first of its kind: worth damaging further
        seen[reason] += 1
        if problem:
            findings.append(problem)
            (mutate.CORPUS / f"found-{len(findings)}.bin").write_bytes(data)
            print(problem, flush=True)
    total = sum(seen.values())
    print(f"seed {options.seed}: {total} answers, {len(findings)} findings; {dict(seen)}")
    return 1 if findings else 0


def examine(rand: Random, data: bytes) -> tuple[str, str]:
    """The class of one answer, and what is wrong with our verdict ("" for nothing)."""
    head_only = rand.random() < 0.15
    whole = oracle.ours(data, [], head_only)
    cut = oracle.ours(data, mutate.cuts(rand, len(data)), head_only)
    if cut[:3] != whole[:3]:
        return "split", f"depends on the cuts: {data!r}: {whole} {cut}"
    theirs = oracle.h11s(data, head_only)
    reason = oracle.explained(data, whole, theirs)
    problem = "" if reason else f"too lenient (HEAD {head_only}): {data!r}: {whole}, h11 {theirs}"
    return f"{whole[0]}: {reason}", problem


if __name__ == "__main__":
    sys.exit(main())
