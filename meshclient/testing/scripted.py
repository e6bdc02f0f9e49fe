"""Chance as a list of numbers. No policy, no clock."""

from __future__ import annotations

import random

_LIMIT = 2**64


class ScriptedRandom:
    """In place of the mesh's source of unsigned 64-bit numbers.

    Gives ``values`` in order. After the last one it raises LookupError, or, with
    ``seed``, goes on with the numbers of ``random.Random(seed)``. ``drawn`` lists
    what was given out. Raises ValueError for a number outside [0, 2**64).
    Not thread-safe.
    """

    def __init__(self, *values: int, seed: int | None = None) -> None:
        bad = [value for value in values if not 0 <= value < _LIMIT]
        if bad:
            raise ValueError(f"not unsigned 64-bit numbers: {bad}")
        self._values = list(reversed(values))
        self._rest = None if seed is None else random.Random(seed)  # noqa: S311 - replayable
        self.drawn: list[int] = []

    def __call__(self) -> int:
        if self._values:
            value = self._values.pop()
        elif self._rest is not None:
            value = self._rest.getrandbits(64)
        else:
            raise LookupError(f"all {len(self.drawn)} scripted numbers are used up")
        self.drawn.append(value)
        return value

    def __repr__(self) -> str:
        return f"<ScriptedRandom drawn={len(self.drawn)} left={len(self._values)}>"


__all__ = ["ScriptedRandom"]
