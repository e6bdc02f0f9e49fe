"""A small system file, parsed again when it changed.

Reads on the caller's thread and only when the file's signature moved: made for
files of a few kilobytes, looked at a few times a minute. Nothing here knows
what is in the file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Hosts files that block advertisers reach megabytes; more than this is cut.
MAX_BYTES = 8 * 1024 * 1024

_log = logging.getLogger("meshclient.discovery")


class WatchedFile(Generic[T]):
    """The parsed content of ``path``; a missing or unreadable file reads as empty.

    A change is noticed by modification time, size or inode at the next
    :meth:`get`, which follows a replaced file or symlink as well. Not thread-safe.
    """

    __slots__ = ("_parse", "_path", "_signature", "_value")

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._signature: tuple[int, int, int] | None = None
        self._value: T | None = None

    def get(self) -> T:
        """The content as of now; one ``stat`` when nothing changed."""
        signature = self._stat()
        if self._value is None or signature != self._signature:
            # Signature first, content second: a write in between is seen next time.
            self._signature = signature
            self._value = self._parse(self._read())
        return self._value

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> str:
        try:
            with open(self._path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            _log.debug("%s is taken as empty: %s", self._path, error)
            return ""
        if len(data) > MAX_BYTES:
            _log.warning("%s: only the first %d bytes are used", self._path, MAX_BYTES)
            data = data[:MAX_BYTES].rpartition(b"\n")[0]
        return data.decode("utf-8", "replace")
