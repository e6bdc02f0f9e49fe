"""Puts what a guided run found interesting into the corpus, small inputs first.

    python -m tests.fuzz.keep FOLDER

Replaces ``corpus/guided.txt``; one input per line, in hexadecimal digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fuzz import mutate

_MOST_BYTES = 60_000


def main() -> None:
    found = {path.read_bytes() for path in Path(sys.argv[1]).iterdir() if path.is_file()}
    lines, size = [], 0
    for data in sorted(found, key=lambda one: (len(one), one)):
        size += len(data)
        if size <= _MOST_BYTES:
            lines.append(data.hex() + "\n")
    (mutate.CORPUS / "guided.txt").write_text("".join(lines))
    print(f"{len(lines)} of {len(found)} inputs")


if __name__ == "__main__":
    main()
