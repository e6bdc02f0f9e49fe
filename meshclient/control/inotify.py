"""Linux inotify through ctypes: directories in, names that changed out.

Only the system calls and their bookkeeping. It decides nothing about files
and never waits: the descriptor belongs in somebody's event loop.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from meshclient.control import after_fork

MODIFY = 0x00000002
ATTRIB = 0x00000004
CLOSE_WRITE = 0x00000008
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
DELETE_SELF = 0x00000400
MOVE_SELF = 0x00000800
UNMOUNT = 0x00002000
Q_OVERFLOW = 0x00004000
IGNORED = 0x00008000
_ONLYDIR = 0x01000000

_MASK = (
    MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF
    | MOVE_SELF | _ONLYDIR
)  # fmt: skip
_HEADER = struct.Struct("iIII")
_BUFFER = 64 * 1024

# The directory went away or may not be read. The slow poll sees what happens to it.
_SKIPPED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG})


class Change(NamedTuple):
    """One kernel event. ``name`` is empty when it is about the directory itself."""

    watch: int
    mask: int
    name: str


class Inotify:
    """One inotify instance. Not thread-safe.

    Raises ``OSError`` where there is no inotify (``ENOSYS``), or where a limit
    of ``/proc/sys/fs/inotify`` is reached (``EMFILE``, ``ENOSPC``). The child
    of a fork closes its copy, because reading there would steal from the parent.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self) -> None:
        self._fd = -1
        # IN_NONBLOCK and IN_CLOEXEC have the values of the flags of open(2).
        self._fd = _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        after_fork.register(self)

    def fileno(self) -> int:
        """The descriptor; -1 after :meth:`close`."""
        return self._fd

    def add(self, folder: str) -> int:
        """Watch ``folder``; the same number again if it is watched already."""
        return _call("inotify_add_watch", self._fd, os.fsencode(folder), _MASK)

    def remove(self, watch: int) -> None:
        """Stop watching; a watch that the kernel has dropped already is no error."""
        try:
            _call("inotify_rm_watch", self._fd, watch)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def read(self) -> list[Change]:
        """What has happened since; empty if nothing has."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        return list(_parse(data))

    def close(self) -> None:
        """Release the descriptor and every watch; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def after_fork_in_child(self) -> None:
        """Drop the copy; removing a watch here would remove the parent's."""
        self.close()


class FolderWatches:
    """The watches of one instance, kept in step with what should be watched."""

    __slots__ = ("_inotify", "_names")

    def __init__(self, inotify: Inotify) -> None:
        self._inotify = inotify
        self._names: dict[int, set[str] | None] = {}

    def sync(self, points: Mapping[str, set[str] | None]) -> bool:
        """Watch exactly ``points``; True if a watch is new (look again: see below).

        A file may have come between the scan that gave ``points`` and the new
        watch, so the caller scans once more. Raises ``OSError`` when a limit is reached.
        """
        wanted: dict[int, set[str] | None] = {}
        for folder, names in points.items():
            # Asking again for a watched directory is how one learns that the
            # path now leads to another directory.
            try:
                watch = self._inotify.add(folder)
            except OSError as error:
                if error.errno in _SKIPPED:
                    continue
                raise
            known = wanted.get(watch, set())
            wanted[watch] = None if names is None or known is None else known | names
        for gone in self._names.keys() - wanted.keys():
            self._inotify.remove(gone)
        fresh = bool(wanted.keys() - self._names.keys())
        self._names = wanted
        return fresh

    def read(self) -> list[Change]:
        """The events that matter; those about other names are dropped."""
        return [change for change in self._inotify.read() if self._matters(change)]

    def _matters(self, change: Change) -> bool:
        if not change.name:
            return bool(change.mask & (DELETE_SELF | MOVE_SELF | UNMOUNT | Q_OVERFLOW))
        names = self._names.get(change.watch, set())
        return names is None or change.name in names


def _parse(data: bytes) -> Iterator[Change]:
    offset = 0
    while offset < len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        yield Change(watch, mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0")))
        offset += length


def _call(name: str, *args: Any) -> int:
    function, get_errno = _libc(name)
    result = int(function(*args))
    if result < 0:
        number = get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


@cache
def _libc(name: str) -> tuple[Callable[..., int], Callable[[], int]]:
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, "inotify exists on Linux only")
    import ctypes

    signatures = {
        "inotify_init1": [ctypes.c_int],
        "inotify_add_watch": [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32],
        "inotify_rm_watch": [ctypes.c_int, ctypes.c_int],
    }
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError) as error:
        raise OSError(errno.ENOSYS, f"{name} is not in this C library") from error
    function.argtypes = signatures[name]
    return function, ctypes.get_errno
