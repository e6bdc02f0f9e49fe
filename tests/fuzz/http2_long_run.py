"""HTTP/2 conversations, honest and damaged, for as long as it is told to.

    python -m tests.fuzz.http2_long_run --seconds 3600 [--seed 1] [--keep FOLDER]

h2 is the other side of the honest ones and the second opinion on the damaged ones.
Exit code 1 when there was a finding; each is written to the folder (default: a new one
under the system's for temporary files), with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz import http2_damage
from tests.fuzz.http2_talk import Talk

_MAX_FINDINGS = 20
_PROGRESS_S = 600.0
#: Damaged versions of one conversation.
_DAMAGES = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-http2-"))
    seen, findings = run(options.seed, options.seconds, folder)
    print(f"seed {options.seed}: {sum(seen.values())} cases, {findings} findings in {folder}")
    for kind, count in sorted(seen.items()):
        print(f"  {count:>10} {kind}")
    return 1 if findings else 0


def run(seed: int, seconds: float, folder: Path) -> tuple[Counter[str], int]:
    """How often each class came, and the number of findings."""
    seen: Counter[str] = Counter()
    findings = 0
    until, report_at = time.monotonic() + seconds, time.monotonic() + _PROGRESS_S
    while time.monotonic() < until and findings < _MAX_FINDINGS:
        seed += 1
        for problem in conversation(seed, seen):
            findings += 1
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"found-{findings}.txt").write_text(f"seed {seed}: {problem}\n")
            print(f"seed {seed}: {problem[-500:]}", flush=True)
        if time.monotonic() > report_at:
            report_at += _PROGRESS_S
            print(f"{sum(seen.values())} cases, {findings} findings", flush=True)
    return seen, findings


def conversation(seed: int, seen: Counter[str]) -> list[str]:
    """One talk that cancels, and one that does not and is damaged many times."""
    rand = Random(seed)
    problems = [talk(rand)]
    seen["honest, both ways"] += 1
    requests, frames = http2_damage.honest(rand)
    kind, problem = http2_damage.judge((requests, frames), rand)
    problems += [problem, "" if kind == "equal" else f"honest, but {kind}"]
    for _ in range(_DAMAGES):
        damaged = http2_damage.damage(rand, frames)
        try:
            kind, problem = http2_damage.judge((requests, damaged), rand)
        except Exception as error:
            kind, problem = "raised", f"{[one.hex() for one in damaged]}: {error!r}"
        seen[f"damaged: {kind}"] += 1
        problems.append(problem)
    return [one for one in problems if one]


def talk(rand: Random) -> str:
    """A conversation with everything; what is wrong with it, or ""."""
    both = Talk(rand)
    for _ in range(rand.choice((10, 40, 120))):
        both.step()
    return both.check()


if __name__ == "__main__":
    sys.exit(main())
