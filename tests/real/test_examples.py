"""Every example program runs as the documentation says, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Program, and what its output must hold. The demo has a target of its own (``make demo``).
PROGRAMS = {
    "context.py": "the deadline of the request being handled has passed",
    "quickstart.py": "=> forwarded to greeter",
    "functions.py": "40 of 40 calls answered",
    "grpc_front.py": "too late: 504",
    "grpc_orders.py": "asyncio: 30 of 30 calls answered",
    "hedging.py": "hedging {'delay': '30ms'}",
    "unwell.py": "it is back:     30 of 30 calls fine",
    "sticky.py": "20 calls of a session went to 1 endpoint",
}
DEMOS = {"bookinfo_demo.py"}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_an_example_runs(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert PROGRAMS[program] in done.stdout


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PROGRAMS, *DEMOS}
