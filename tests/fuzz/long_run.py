"""Damages answers and requests for as long as it is told to; prints what the oracles object to.

    python -m tests.fuzz.long_run --seconds 3600 [--seed 1] [--keep FOLDER]

Four kinds of cases in turn: an answer for the parser (h11 beside it), an answer for
a whole exchange (httpcore2 beside it, or one shell beside the other), a request (h11
reads what is written). Exit
code 1 when there was a finding; each is written to the folder (default: a new one
under the system's for temporary files). Fixed, it belongs into ``tests/fuzz/corpus/``.
Plain random damage; :mod:`tests.fuzz.guided_run` is led by coverage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz import exchange, loop_exchange, mutate, oracle, requests

_MAX_FINDINGS = 20
#: Seconds between two lines that say how far it is.
_PROGRESS_S = 600.0


class Pool:
    """The inputs of one kind: those kept for good, and the first of each class seen."""

    def __init__(self, seeds: list[bytes], tokens: tuple[bytes, ...]) -> None:
        self._seeds = seeds
        self._tokens = tokens
        self._inputs = list(seeds)
        self._classes: set[str] = set()

    def damaged(self, rand: Random) -> bytes:
        """One of them, changed."""
        return mutate.mutate(rand, rand.choice(self._inputs), self._seeds, self._tokens)

    def saw(self, kind: str, data: bytes) -> None:
        """The first of its class is worth damaging further, unless it is refused already."""
        if kind not in self._classes and "refused" not in kind:
            self._classes.add(kind)
            self._inputs.append(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-found-"))
    seen, findings = run(Random(options.seed), options.seconds, folder)
    loop_exchange.close()
    total = sum(seen.values())
    print(f"seed {options.seed}: {total} cases, {findings} findings in {folder}")
    for kind, count in sorted(seen.items()):
        print(f"  {count:>10} {kind}")
    return 1 if findings else 0


def run(rand: Random, seconds: float, folder: Path) -> tuple[Counter[str], int]:
    """How often each class came, and the number of findings."""
    answers = Pool(mutate.seeds(), mutate.TOKENS)
    asked = Pool(mutate.request_seeds(), requests.TOKENS)
    seen: Counter[str] = Counter()
    findings = 0
    until = time.monotonic() + seconds
    report_at = time.monotonic() + _PROGRESS_S
    while time.monotonic() < until and findings < _MAX_FINDINGS:
        pool = asked if rand.random() < 0.4 else answers
        data = pool.damaged(rand)
        kind, problem = examine_request(data) if pool is asked else examine_answer(rand, data)
        seen[kind] += 1
        if problem:
            findings += 1
            folder.mkdir(parents=True, exist_ok=True)
            suffix = "req" if pool is asked else "bin"
            (folder / f"found-{findings}.{suffix}").write_bytes(data)
            print(problem, flush=True)
        else:
            pool.saw(kind, data)
        if time.monotonic() > report_at:
            report_at += _PROGRESS_S
            print(f"{sum(seen.values())} cases, {findings} findings", flush=True)
    return seen, findings


def examine_request(data: bytes) -> tuple[str, str]:
    """The class of one request, and what is wrong with our verdict ("" for nothing)."""
    kind, problem = requests.judge(data)
    method, _, headers, body = requests.decode(data)
    shape = "CONNECT" if method == b"CONNECT" else type(body).__name__
    framing = sum(n.lower() in (b"content-length", b"transfer-encoding") for n, _ in headers)
    return f"request {kind}: {shape}, framing headers: {min(framing, 2)}", problem


def examine_answer(rand: Random, data: bytes) -> tuple[str, str]:
    """The class of one answer, and what is wrong with our verdict ("" for nothing)."""
    which = rand.random()
    if which < 0.3:
        return exchange.judge(data, rand.choice(exchange.METHODS))
    if which < 0.5:
        cuts = mutate.cuts(rand, len(data))
        return loop_exchange.judge(data, rand.choice(exchange.METHODS), cuts)
    head_only = rand.random() < 0.15
    whole = oracle.ours(data, [], head_only)
    cut = oracle.ours(data, mutate.cuts(rand, len(data)), head_only)
    if cut[:3] + cut[4:] != whole[:3] + whole[4:]:
        return "answer split", f"depends on the cuts: {data!r}: {whole} {cut}"
    theirs = oracle.h11s(data, head_only)
    reason = oracle.explained(data, whole, theirs, head_only)
    problem = "" if reason else f"too lenient (HEAD {head_only}): {data!r}: {whole}, h11 {theirs}"
    return f"answer {whole[0]}: {reason}", problem


if __name__ == "__main__":
    sys.exit(main())
