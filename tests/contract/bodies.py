"""Request bodies by name, in the colour of the client that sends them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from .scenario import Colour

PIECES = (b"one,", b"two,", b"three")
WHOLE = b"".join(PIECES)
BIG = bytes(range(256)) * 4096  # 1 MiB
_BOUNDARY = {"Content-Type": "multipart/form-data; boundary=frontier"}


def _sync_pieces() -> Iterator[bytes]:
    yield from PIECES


async def _async_pieces() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece


class _AsyncList:
    """Iterates anew each time, as a list does."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _async_pieces()


def _generator(colour: Colour) -> dict[str, Any]:
    return {"content": _sync_pieces() if colour == "sync" else _async_pieces()}


def _list(colour: Colour) -> dict[str, Any]:
    return {"content": list(PIECES) if colour == "sync" else _AsyncList()}


def _file(colour: Colour) -> dict[str, Any]:
    """A file object: httpx reads it from where it stands, once."""
    if colour == "async":
        return {"content": _async_pieces(), "headers": {"Content-Length": str(len(WHOLE))}}
    return {"content": io.BytesIO(WHOLE)}


def _multipart(colour: Colour) -> dict[str, Any]:
    files = {"f": ("n.txt", io.BytesIO(WHOLE), "text/plain")}
    return {"files": files, "data": {"k": "v"}, "headers": _BOUNDARY}


class _Pipe(io.RawIOBase):
    """A file that cannot go back."""

    def __init__(self) -> None:
        self._rest = WHOLE

    def read(self, size: int = -1) -> bytes:
        data, self._rest = self._rest, b""
        return data

    def readable(self) -> bool:
        return True

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    def seekable(self) -> bool:
        return False


def _multipart_pipe(colour: Colour) -> dict[str, Any]:
    return {"files": {"f": ("n.txt", _Pipe(), "text/plain")}, "headers": _BOUNDARY}


MAKERS: dict[str, Callable[[Colour], dict[str, Any]]] = {
    "": lambda _: {},
    "bytes": lambda _: {"content": WHOLE},
    "big": lambda _: {"content": BIG},
    "json": lambda _: {"json": {"k": [1, None, "ü"]}},
    "form": lambda _: {"data": {"k": "v w", "l": ["1", "2"]}},
    "multipart": _multipart,
    "multipart_pipe": _multipart_pipe,
    "generator": _generator,
    "list": _list,
    "huge": lambda _: {"content": BIG * 32},
    "file": _file,
}


def make(name: str, colour: Colour) -> dict[str, Any]:
    """Arguments for ``client.request``."""
    return MAKERS[name](colour)
