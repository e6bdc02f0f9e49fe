"""The same oracles under atheris (libFuzzer), which prefers inputs that reach new code.

    python -m tests.fuzz.guided_run -max_total_time=600 FOLDER

Arguments are libFuzzer's; the folder (filled from the corpus when it is empty)
collects what was interesting, and ``python -m tests.fuzz.keep FOLDER`` puts that into
``corpus/guided.txt``. The first byte of an input chooses the oracle. Coverage
is that of our Python and of h11; llhttp is seen from outside only. Needs ``atheris``,
which the tests themselves do not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["meshclient.transport", "h11"]):
    from tests.fuzz import guided, mutate


def one_input(data: bytes) -> None:
    """Raises AssertionError for a finding."""
    problem = guided.judge(data)
    assert not problem, problem


def fill(folder: Path) -> None:
    """Put the corpus there, once for each oracle."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return
    for number, seed in enumerate(mutate.request_seeds()):
        (folder / f"request-{number}").write_bytes(bytes([guided.REQUESTS]) + seed)
    for number, seed in enumerate(mutate.seeds()):
        for kind in guided.ANSWER_KINDS:
            (folder / f"answer-{number}-{kind}").write_bytes(bytes([kind]) + seed)


def main() -> None:
    for folder in sys.argv[1:]:
        if not folder.startswith("-"):
            fill(Path(folder))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
