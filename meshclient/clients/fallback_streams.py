"""Bodies that are kept on their way to the caller, up to a number of bytes.

Knows nothing of what is made of them, and never reads ahead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

Whole = Callable[[bytes], object]


class _Copy:
    """The pieces so far; nothing once they are too many."""

    __slots__ = ("_left", "_pieces", "_whole")

    def __init__(self, whole: Whole, most: int) -> None:
        self._whole = whole
        self._left = most
        self._pieces: list[bytes] | None = []

    def add(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            self._pieces = None
        elif self._pieces is not None:
            self._pieces.append(piece)

    def end(self) -> None:
        if self._pieces is not None:
            self._whole(b"".join(self._pieces))


class SyncTee:
    """The body of a blocking response; ``whole`` is told of it when it was read to its end."""

    __slots__ = ("_copy", "_stream")

    def __init__(self, stream: Any, whole: Whole, most: int) -> None:
        self._stream = stream
        self._copy = _Copy(whole, most)

    def chunks(self) -> Iterator[bytes]:
        """The body, as it arrives."""
        for piece in self._stream:
            self._copy.add(piece)
            yield piece
        self._copy.end()

    def close(self) -> None:
        """End the response."""
        self._stream.close()


class AsyncTee:
    """:class:`SyncTee` for any event loop."""

    __slots__ = ("_copy", "_pieces", "_stream")

    def __init__(self, stream: Any, whole: Whole, most: int) -> None:
        self._stream = stream
        self._copy = _Copy(whole, most)
        self._pieces: AsyncIterator[bytes]

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it arrives."""
        self._pieces = aiter(self._stream)
        return self

    # No generator: trio complains about each that is left before its end.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._copy.end()
            raise
        self._copy.add(piece)
        return piece

    async def aclose(self) -> None:
        """End the response."""
        await self._stream.aclose()


__all__ = ["AsyncTee", "SyncTee"]
