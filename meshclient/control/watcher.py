"""When to look whether watched files have changed: the timing of hot reload.

inotify says at once that something happened; the fingerprint says whether it
matters. Nothing here parses a file or knows what is done with a change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from meshclient.control.fingerprint import Fingerprint
from meshclient.control.inotify import (
    CLOSE_WRITE,
    DELETE,
    MODIFY,
    MOVED_FROM,
    FolderWatches,
    Inotify,
)

_log = logging.getLogger("meshclient.config")


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Times of the watcher, in seconds.

    A change is looked at once nothing has happened for ``quiet_s``, and at the
    latest ``bound_s`` after it began. ``safety_poll_s`` is the interval of the
    stat poll beside inotify, which does not see changes made on another
    machine (NFS) or through some container mounts. Without inotify that poll
    runs every ``poll_s``, or so seldom that it costs ``poll_share`` of a core.
    """

    quiet_s: float = 0.02
    bound_s: float = 0.1
    safety_poll_s: float = 2.0
    poll_s: float = 0.2
    poll_share: float = 0.001


DEFAULT_SETTINGS = WatchSettings()


async def watch_paths(
    paths: Sequence[str | os.PathLike[str]],
    changed: Callable[[], Awaitable[object]],
    *,
    baseline: Fingerprint | None = None,
    settings: WatchSettings = DEFAULT_SETTINGS,
    make_inotify: Callable[[], Inotify] = Inotify,
) -> None:
    """Await ``changed()`` after every change of content; runs until cancelled.

    ``baseline`` is what the caller has read (default: the state now), so that
    nothing is lost between reading and watching. Calls of ``changed`` never
    overlap; what happens during one is looked at after it. An exception of
    ``changed`` is logged. For an asyncio loop with ``add_reader``.
    """
    watcher = _Watcher(baseline or Fingerprint(paths), settings, make_inotify)
    try:
        await watcher.open()
        while True:
            if watcher.scan():
                try:
                    await changed()
                except Exception:
                    _log.exception("reloading failed")
            await watcher.hint()
            await watcher.settle()
    finally:
        watcher.close()


class _Watcher:
    def __init__(
        self,
        fingerprint: Fingerprint,
        settings: WatchSettings,
        make_inotify: Callable[[], Inotify],
    ) -> None:
        self._fingerprint = fingerprint
        self._settings = settings
        self._make_inotify = make_inotify
        self._loop = asyncio.get_running_loop()
        self._activity = asyncio.Event()
        self._unfinished: set[tuple[int, str]] = set()  # written to, not closed yet
        self._inotify: Inotify | None = None
        self._watches: FolderWatches | None = None
        self._interval_s = settings.poll_s

    async def open(self) -> None:
        """Start to listen. What changed before that may still be being written."""
        try:
            self._inotify = self._make_inotify()
            self._watches = FolderWatches(self._inotify)
            self._loop.add_reader(self._inotify.fileno(), self._readable)
            self._interval_s = self._settings.safety_poll_s
        except (OSError, NotImplementedError) as error:
            self._poll_instead(error)
        self._sync()
        if self._fingerprint.looks_changed():
            await self.settle()

    def close(self) -> None:
        inotify, self._inotify, self._watches = self._inotify, None, None
        if inotify is not None and inotify.fileno() >= 0:
            self._loop.remove_reader(inotify.fileno())
            inotify.close()

    def scan(self) -> bool:
        """Compare contents, and bring the watches in step with what was found."""
        changed = self._fingerprint.scan()
        for _ in range(3):  # a new folder inside a new folder inside a new folder
            if not self._sync():
                break
            changed = self._fingerprint.scan() or changed
        return changed

    async def hint(self) -> None:
        """Wait until an event or the poll suggests that something has changed."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._activity.wait()
                return
            if self._looks_changed():
                return

    async def settle(self) -> None:
        """Wait until the writer seems done, within the bound."""
        deadline = self._loop.time() + self._settings.bound_s
        while (left := deadline - self._loop.time()) > 0:
            self._activity.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._settings.quiet_s, left)):
                    await self._activity.wait()
                continue
            if not self._unfinished and not self._fingerprint.missing():
                break
        self._activity.clear()
        self._unfinished.clear()

    def _looks_changed(self) -> bool:
        started = time.perf_counter()
        result = self._fingerprint.looks_changed()
        if self._watches is None:
            cost = time.perf_counter() - started
            self._interval_s = max(self._settings.poll_s, cost / self._settings.poll_share)
        return result

    def _sync(self) -> bool:
        if self._watches is None:
            return False
        try:
            return self._watches.sync(self._fingerprint.watch_points())
        except OSError as error:
            self.close()
            self._poll_instead(error)
            return False

    def _poll_instead(self, error: BaseException) -> None:
        self.close()
        self._interval_s = self._settings.poll_s
        _log.warning("policy files are polled every %s s: %s", self._interval_s, error)

    def _readable(self) -> None:
        if self._watches is None:
            return
        changes = self._watches.read()
        for change in changes:
            key = (change.watch, change.name)
            if change.mask & (CLOSE_WRITE | DELETE | MOVED_FROM):
                self._unfinished.discard(key)
            elif change.mask & MODIFY:
                self._unfinished.add(key)
        if changes:
            self._activity.set()
