"""Sleeping and time limits in whatever runs the caller: asyncio, else trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Expired(TimeoutError):
    """The limit of :func:`bounded` ended what it was around."""


async def sleep_here(seconds: float) -> None:
    """Sleep in whatever runs: asyncio, else trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await sys.modules["trio"].sleep(seconds)
    else:
        await asyncio.sleep(seconds)


async def bounded(work: Awaitable[T], limit_s: float | None) -> T:
    """Await ``work``, for at most ``limit_s`` seconds (None: any time).

    Raises :class:`Expired`, once what was cancelled has ended. A TimeoutError of the
    work's own passes as it is.
    """
    if limit_s is None:
        return await work
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return await _bounded_by_trio(work, limit_s)
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if limit.expired():
            raise Expired(f"took longer than {limit_s:g} s") from error
        raise


async def _bounded_by_trio(work: Awaitable[T], limit_s: float) -> T:
    with sys.modules["trio"].move_on_after(limit_s):
        return await work
    raise Expired(f"took longer than {limit_s:g} s")


__all__ = ["Expired", "bounded", "sleep_here"]
