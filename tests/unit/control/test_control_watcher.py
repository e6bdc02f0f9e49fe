"""The watcher's timing, in virtual time with a scripted inotify."""

from __future__ import annotations

import asyncio
import errno
import os
import struct

import pytest
from control_support import run_virtual

from meshclient.control import inotify
from meshclient.control.inotify import Change, FolderWatches
from meshclient.control.watcher import WatchSettings, watch_paths

W = inotify.CLOSE_WRITE
FAR = WatchSettings(safety_poll_s=1000.0)


class FakeFingerprint:
    """``versions`` counts edits; a scan compares with the last one."""

    def __init__(self) -> None:
        self.version = self.seen = 0
        self.absent = False
        self.scans = self.looks = 0

    def scan(self) -> bool:
        self.scans += 1
        changed, self.seen = self.version != self.seen, self.version
        return changed

    def looks_changed(self) -> bool:
        self.looks += 1
        return self.version != self.seen

    def missing(self) -> bool:
        return self.absent

    def watch_points(self) -> dict[str, set[str] | None]:
        return {"/policies": None}


class FakeInotify:
    """A pipe stands for the descriptor; ``feed`` makes it readable."""

    def __init__(self, fail: int = 0) -> None:
        self._read_fd, self._write_fd = os.pipe()
        self._fail = fail
        self.queue: list[Change] = []
        self.closed = False

    def fileno(self) -> int:
        return -1 if self.closed else self._read_fd

    def add(self, folder: str) -> int:
        if self._fail:
            raise OSError(self._fail, os.strerror(self._fail))
        return 1

    def remove(self, watch: int) -> None:
        raise AssertionError("nothing is removed in these tests")

    def feed(self, mask: int, name: str = "a.yaml") -> None:
        self.queue.append(Change(1, mask, name))
        os.write(self._write_fd, b"x")

    def read(self) -> list[Change]:
        os.read(self._read_fd, 4096)
        queue, self.queue = self.queue, []
        return queue

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._read_fd)
            os.close(self._write_fd)


class Bench:
    """A running watcher and the times at which it saw a change."""

    def __init__(self, settings: WatchSettings = FAR, fail: int = 0) -> None:
        self.files = FakeFingerprint()
        self.inotify = FakeInotify(fail)
        self.times: list[float] = []
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(
            watch_paths(
                (),
                self._changed,
                baseline=self.files,
                settings=settings,
                make_inotify=lambda: self.inotify,
            )
        )

    async def _changed(self) -> None:
        self.times.append(round(self.loop.time(), 4))

    async def __aenter__(self) -> Bench:
        await asyncio.sleep(1.0)
        self.start = self.loop.time()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task
        self.inotify.close()

    def edit(self, mask: int = W, name: str = "a.yaml") -> None:
        self.files.version += 1
        self.inotify.feed(mask, name)

    def delays(self) -> list[float]:
        return [round(t - self.start, 4) for t in self.times]


def test_a_finished_write_is_seen_after_the_quiet_time():
    async def main():
        async with Bench() as bench:
            bench.edit()
            await asyncio.sleep(1)
            return bench.delays()

    assert run_virtual(main) == [0.02]


def test_a_write_that_goes_on_is_awaited_but_not_for_ever():
    async def main():
        async with Bench() as bench:
            bench.edit(inotify.MODIFY)  # never closed
            await asyncio.sleep(1)
            return bench.delays()

    assert run_virtual(main) == [0.1]


def test_a_write_is_read_soon_after_it_is_closed():
    async def main():
        async with Bench() as bench:
            bench.edit(inotify.MODIFY)
            await asyncio.sleep(0.05)
            bench.edit(W)
            await asyncio.sleep(1)
            return bench.delays()

    assert run_virtual(main) == [0.07]


def test_a_missing_path_gets_the_bound_to_come_back():
    async def main():
        async with Bench() as bench:
            bench.files.absent = True
            bench.edit(inotify.DELETE)
            await asyncio.sleep(0.05)
            bench.files.absent = False
            bench.edit(inotify.MOVED_TO)
            await asyncio.sleep(1)
            return bench.delays()

    assert run_virtual(main) == [0.07]


def test_a_storm_is_bounded_on_both_sides():
    async def main():
        async with Bench() as bench:
            for _ in range(1000):
                bench.edit()
                await asyncio.sleep(0.001)
            await asyncio.sleep(1)
            return bench.delays(), bench.files

    delays, files = run_virtual(main)
    assert files.seen == files.version
    assert 5 <= len(delays) <= 11
    assert delays[0] == 0.1


def test_events_without_a_change_of_content_call_nobody():
    async def main():
        async with Bench() as bench:
            bench.inotify.feed(inotify.ATTRIB)
            await asyncio.sleep(1)
            return bench.delays()

    assert run_virtual(main) == []


def test_the_safety_poll_finds_what_inotify_does_not_tell():
    async def main():
        async with Bench(WatchSettings(safety_poll_s=2.0)) as bench:
            bench.files.version += 1
            await asyncio.sleep(5)
            return bench.delays(), bench.files.looks

    delays, looks = run_virtual(main)
    assert delays == [pytest.approx(1.02)]
    assert looks <= 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_at_a_limit_of_inotify_it_polls_instead_and_says_so(number, caplog):
    async def main():
        async with Bench(fail=number) as bench:
            bench.files.version += 1
            await asyncio.sleep(1)
            return bench.delays(), bench.inotify.closed

    delays, closed = run_virtual(main)
    assert closed
    assert 0 < delays[0] <= 0.25
    assert caplog.text.count("policy files are polled every 0.2 s") == 1


def test_without_inotify_it_polls(caplog):
    def none() -> inotify.Inotify:
        raise OSError(errno.ENOSYS, "inotify exists on Linux only")

    async def main():
        files, seen = FakeFingerprint(), asyncio.Event()

        async def changed():
            seen.set()

        task = asyncio.create_task(watch_paths((), changed, baseline=files, make_inotify=none))
        await asyncio.sleep(1)
        files.version += 1
        await asyncio.wait_for(seen.wait(), 0.25)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main)
    assert "inotify exists on Linux only" in caplog.text


def test_an_error_of_the_receiver_is_logged_and_the_next_change_still_seen(caplog):
    async def failing():
        files = FakeFingerprint()
        calls = []

        async def changed():
            calls.append(1)
            raise ValueError("bad receiver")

        fake = FakeInotify()
        task = asyncio.create_task(
            watch_paths((), changed, baseline=files, settings=FAR, make_inotify=lambda: fake)
        )
        for _ in range(2):
            await asyncio.sleep(1)
            files.version += 1
            fake.feed(W)
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(calls)

    assert run_virtual(failing) == 2
    assert caplog.text.count("ValueError: bad receiver") == 2


def _event(watch: int, mask: int, name: bytes) -> bytes:
    padded = name + b"\0" * (16 - len(name) % 16) if name else b""
    return struct.pack("iIII", watch, mask, 0, len(padded)) + padded


def test_kernel_events_are_parsed():
    data = _event(1, W, b"a.yaml") + _event(2, inotify.DELETE_SELF, b"") + _event(1, W, b"\xff")
    assert list(inotify._parse(data)) == [
        Change(1, W, "a.yaml"),
        Change(2, inotify.DELETE_SELF, ""),
        Change(1, W, "\udcff"),
    ]


class ScriptedInotify:
    """Answers ``add`` from a table of path -> watch number or errno."""

    def __init__(self, table: dict[str, int]) -> None:
        self.table = table
        self.removed: list[int] = []
        self.queue: list[Change] = []

    def add(self, folder: str) -> int:
        answer = self.table[folder]
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer

    def remove(self, watch: int) -> None:
        self.removed.append(watch)

    def read(self) -> list[Change]:
        return self.queue


def test_watches_follow_the_directories():
    fake = ScriptedInotify({"/a": 1, "/b": 2, "/alias": 1})
    watches = FolderWatches(fake)
    assert watches.sync({"/a": {"x"}, "/b": None}) is True
    assert watches.sync({"/a": {"x"}, "/b": None}) is False
    fake.table["/b"] = 3  # another directory stands there now
    assert watches.sync({"/a": {"x"}, "/b": None}) is True
    assert fake.removed == [2]


def test_events_of_other_names_are_dropped_and_aliases_add_up():
    fake = ScriptedInotify({"/a": 1, "/alias": 1})
    watches = FolderWatches(fake)
    watches.sync({"/a": {"x"}, "/alias": {"y"}})
    fake.queue = [
        Change(1, W, "x"),
        Change(1, W, "y"),
        Change(1, W, "z"),
        Change(9, W, "x"),
        Change(1, inotify.IGNORED, ""),
        Change(1, inotify.DELETE_SELF, ""),
        Change(-1, inotify.Q_OVERFLOW, ""),
    ]
    assert [c.name or c.mask for c in watches.read()] == [
        "x",
        "y",
        inotify.DELETE_SELF,
        inotify.Q_OVERFLOW,
    ]


def test_directories_that_cannot_be_watched_are_left_to_the_poll():
    watches = FolderWatches(ScriptedInotify({"/gone": -errno.ENOENT, "/secret": -errno.EACCES}))
    assert watches.sync({"/gone": None, "/secret": None}) is False


def test_a_limit_is_an_error():
    watches = FolderWatches(ScriptedInotify({"/a": -errno.ENOSPC}))
    with pytest.raises(OSError, match="No space left"):
        watches.sync({"/a": None})
