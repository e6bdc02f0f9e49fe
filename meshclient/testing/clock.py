"""Time that passes only when a test says so. No policy, no randomness."""

from __future__ import annotations


class FakeClock:
    """A monotonic clock in seconds; call it to read it.

    ``sleep`` and ``async_sleep`` return at once and move the time on; ``sleeps``
    lists how long each of them was. Not thread-safe.
    """

    def __init__(self, start_s: float = 1000.0) -> None:
        self.now = start_s
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises ValueError for less than 0: no clock here runs backwards."""
        if not seconds >= 0.0:
            raise ValueError(f"time passes forwards only, not by {seconds!r} s")
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """In place of ``time.sleep``."""
        self.advance(seconds)
        self.sleeps.append(seconds)

    async def async_sleep(self, seconds: float) -> None:
        """In place of ``asyncio.sleep``."""
        self.sleep(seconds)

    def __repr__(self) -> str:
        return f"<FakeClock {self.now:g} s, slept {len(self.sleeps)} times>"


__all__ = ["FakeClock"]
