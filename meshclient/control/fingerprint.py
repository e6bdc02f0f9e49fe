"""Whether the content of some files and folders has changed.

Synchronous and stateful, with no event loop and no notion of when to look:
that is the watcher's. It never parses a file.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

#: What the loader reads of a folder (``config.files``); a file named by itself may have any name.
SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000
_MAX_LINKS = 40
_MAX_BYTES = 16 * 1024 * 1024
_CHUNK = 1024 * 1024

# A file written this recently may change again without a new time stamp (the coarsest file
# systems count in steps of two seconds), so its stat is not trusted yet. git: "racily clean".
_RACY_NS = 2_000_000_000

_Stat = tuple[int, int, int, int]


class _Entry:
    __slots__ = ("digest", "racy", "stat")

    def __init__(self, status: _Stat | None, digest: bytes, racy: bool) -> None:
        self.stat = status
        self.digest = digest
        self.racy = racy


class Fingerprint:
    """The content of ``paths``: files, and the policy files of folders.

    Of a folder it takes what the loader takes: neither hidden names nor
    sub-folders; links are followed. Content counts, not time stamps: touching
    a file is no change. The state at construction is what the first
    :meth:`scan` compares with. Not thread-safe.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._roots = [os.path.abspath(os.fspath(path)) for path in paths]
        self._now_ns = now_ns
        self._entries: dict[str, _Entry] = {}
        self._folders: dict[str, _Stat | None] = {}
        self._links: list[str] = []
        self._racy = False
        self.scan()

    @property
    def files(self) -> list[str]:
        """The files found by the last scan, in order."""
        return list(self._entries)

    def missing(self) -> bool:
        """Whether one of ``paths`` itself is absent at this moment."""
        return not all(os.path.exists(root) for root in self._roots)

    def scan(self) -> bool:
        """Look closely; True if any content differs from the scan before.

        Costs a stat per file, and reading the files whose stat changed.
        """
        now_ns = self._now_ns()
        self._folders, self._links = {}, []
        found = {path: self._examine(path, now_ns) for path in self._list()}
        changed = _contents(found) != _contents(self._entries)
        self._entries = found
        self._racy = any(entry.racy for entry in found.values())
        return changed

    def looks_changed(self) -> bool:
        """One stat per file and folder; True if a :meth:`scan` is worth while."""
        return self._racy or self.moved_on()

    def moved_on(self) -> bool:
        """Whether somebody wrote since the last scan, as far as time stamps tell."""
        for path, entry in self._entries.items():
            if _stat(path) != entry.stat:
                return True
        return any(_stat(path) != status for path, status in self._folders.items())

    def watch_points(self) -> dict[str, set[str] | None]:
        """Directory -> names that matter in it (None: any name).

        Watching these directories shows every change of the paths: the folders
        themselves, the directory of each path, and of every symbolic link on
        the way to it. A watch on a file would go deaf when the file is
        replaced, which is how Kubernetes and most editors write.
        """
        points: dict[str, set[str] | None] = {}
        for path in (*self._roots, *self._links):
            for folder, name in link_points(path):
                names = points.setdefault(folder, set())
                if names is not None:
                    names.add(name)
        for folder, status in self._folders.items():
            if status is not None:
                points[os.path.realpath(folder)] = None
        return points

    def _list(self) -> Iterator[str]:
        for root in self._roots:
            if os.path.isdir(root):
                yield from islice(self._folder(root), MAX_FILES)
            else:
                yield root

    def _folder(self, folder: str) -> Iterator[str]:
        self._folders[folder] = _stat(folder)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
                continue
            if entry.is_symlink():
                self._links.append(entry.path)
            if not _is_folder(entry):
                yield entry.path

    def _examine(self, path: str, now_ns: int) -> _Entry:
        status = _stat(path)
        known = self._entries.get(path)
        if known is not None and known.stat == status and not known.racy:
            return known
        racy = status is not None and abs(now_ns - status[1]) < _RACY_NS
        return _Entry(status, _digest(path), racy)


def link_points(path: str) -> Iterator[tuple[str, str]]:
    """``(directory, name)`` of each symbolic link on the way to ``path``, and of its end.

    If something is missing on the way, the end is the missing name in the
    directory that does exist, where its return will show.
    """
    names = [name for name in path.split(os.sep) if name]
    current, links = os.sep, 0
    while names:
        name = names.pop(0)
        if name in (".", ".."):
            current = os.path.dirname(current) if name == ".." else current
            continue
        candidate = os.path.join(current, name)
        target = _read_link(candidate)
        if target is None:
            if not names or not os.path.lexists(candidate):
                yield current, name
                return
            current = candidate
            continue
        yield current, name
        links += 1
        if links > _MAX_LINKS:
            return
        current = os.sep if os.path.isabs(target) else current
        names = [part for part in target.split(os.sep) if part] + names


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def _stat(path: str) -> _Stat | None:
    try:
        s = os.stat(path)
    except (OSError, ValueError):
        return None
    # The change time cannot be set back by a program, the modification time can.
    return (s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino)


def _contents(entries: dict[str, _Entry]) -> dict[str, bytes]:
    return {path: entry.digest for path, entry in entries.items()}


def _digest(path: str) -> bytes:
    """A hash of the first 16 MiB, or the reason why it cannot be read."""
    # Non-blocking: a named pipe that somebody puts here must not stop the thread.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        return f"unreadable: {getattr(error, 'errno', None)}".encode()
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b"not a regular file"
        digest, left = hashlib.blake2b(digest_size=16), _MAX_BYTES
        while left > 0 and (chunk := os.read(descriptor, _CHUNK)):
            digest.update(chunk)
            left -= len(chunk)
        return digest.digest()
    except OSError as error:
        return f"unreadable: {error.errno}".encode()
    finally:
        os.close(descriptor)
