"""Discovery tasks, in virtual time."""

from __future__ import annotations

import asyncio
import itertools

from control_support import dns, ready, run_virtual

from meshclient.control.sources import DiscoveryTasks
from meshclient.model.endpoint import EndpointSet

A, B = dns("a:80"), dns("b:80")


class Scripted:
    """``scripts[source]`` is a list of what one watch after the other does."""

    def __init__(self, **scripts):
        self.scripts = scripts
        self.starts = []

    async def watch(self, source, report):
        name = source.targets[0].address
        self.starts.append((name, asyncio.get_running_loop().time()))
        for step in self.scripts[name].pop(0):
            if isinstance(step, Exception):
                raise step
            report(step)
        await asyncio.Event().wait()


def follow(scripted, *sources, for_s=100.0, then=None):
    async def main():
        changes = []
        tasks = DiscoveryTasks(lambda: scripted, lambda *change: changes.append(change))
        tasks.follow(sources)
        tasks.follow(sources)
        await asyncio.sleep(for_s)
        if then:
            then(tasks)
            await asyncio.sleep(for_s)
        return dict(tasks.results), list(changes)

    return run_virtual(main)


def test_equal_sources_are_watched_once_and_results_kept():
    scripted = Scripted(a=[[ready("10.0.0.1:80")]], b=[[]])
    results, changes = follow(scripted, A, dns("a:80"), B)
    assert [name for name, _ in scripted.starts] == ["a", "b"]
    assert results == {A: ready("10.0.0.1:80"), B: EndpointSet()}
    assert changes == [(A, EndpointSet(), ready("10.0.0.1:80"))]


def test_a_report_that_says_the_same_is_no_change():
    same = ready("10.0.0.1:80")
    _, changes = follow(Scripted(a=[[same, same, ready("10.0.0.1:80")]]), A)
    assert len(changes) == 1


def test_a_crash_keeps_the_last_good_endpoints_and_starts_again_later(caplog):
    good = ready("10.0.0.1:80")
    scripted = Scripted(a=[[good, ValueError("boom")], [ValueError("boom")], [good]])
    results, changes = follow(scripted, A)
    assert [at for _, at in scripted.starts] == [0.0, 1.0, 3.0]
    assert [after.state for _, _, after in changes] == ["ready", "stale", "ready"]
    assert changes[1][2] == EndpointSet(good.endpoints, "stale", "ValueError: boom")
    assert results[A] == good
    assert caplog.text.count("dns a:80 crashed") == 2


def test_a_source_that_never_worked_is_failed_and_its_pause_is_capped():
    scripted = Scripted(a=[[OSError("no")] for _ in range(20)])
    results, _ = follow(scripted, A, for_s=300.0)
    assert results[A] == EndpointSet((), "failed", "OSError: no")
    times = [at for _, at in scripted.starts]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert max(pauses) == 30


def test_a_discoverer_that_cannot_be_made_fails_the_source():
    def broken():
        raise RuntimeError("no resolver")

    async def main():
        tasks = DiscoveryTasks(broken, lambda *_: None)
        tasks.follow([A])
        await asyncio.sleep(0)
        return tasks.results[A]

    assert run_virtual(main) == EndpointSet((), "failed", "RuntimeError: no resolver")


def test_a_watch_that_ends_in_silence_is_a_failure():
    class Silent:
        async def watch(self, source, report):
            return

    results, _ = follow(Silent(), A)
    assert results[A].error == "discovery ended without an answer"


def test_dropped_sources_are_cancelled_and_their_late_reports_ignored():
    late = []

    class Late:
        async def watch(self, source, report):
            try:
                report(ready("10.0.0.1:80"))
                await asyncio.Event().wait()
            finally:
                late.append(source)
                report(ready("10.0.0.9:80"))

    results, changes = follow(Late(), A, B, then=lambda t: t.keep_only(frozenset([B])))
    assert late[0] == A
    assert set(results) == {B}
    assert len(changes) == 2


def test_a_dropped_source_that_crashes_on_the_way_out_stays_dropped(caplog):
    class Crashing:
        async def watch(self, source, report):
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("on the way out")

    results, changes = follow(Crashing(), A, then=lambda t: t.keep_only(frozenset()))
    assert (results, changes) == ({}, [])


def test_pending_counts_only_sources_without_any_answer():
    async def main():
        tasks = DiscoveryTasks(lambda: Scripted(a=[[ready()]], b=[[]]), lambda *_: None)
        tasks.follow([A, B])
        await asyncio.sleep(1)
        return tasks.pending([A, B])

    assert run_virtual(main) == [B]
