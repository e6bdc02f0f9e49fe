"""The controller: what is published when, and which events say so."""

from __future__ import annotations

import asyncio
import threading

import pytest
from control_support import (
    PATIENCE_S,
    Plane,
    Recorder,
    ScriptedDiscoverer,
    config,
    dns,
    ready,
    static,
)

from meshclient.control import Controller, ControlThread
from meshclient.control import controller as controller_module
from meshclient.errors import ClosedError, ConfigError
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import EndpointSet
from meshclient.model.events import (
    ConfigApplied,
    ConfigRejected,
    DiscoveryFailed,
    DiscoveryRecovered,
    EndpointsChanged,
)
from meshclient.model.source import Diagnostic, Source

A, B = dns("a:80"), dns("b:80")


@pytest.fixture
def scripted():
    return ScriptedDiscoverer()


@pytest.fixture
def open_controller(scripted):
    opened = []

    def make(*clusters, build_plane=Plane):
        controller = Controller(
            lambda: config(*clusters), build_plane, make_discoverer=lambda: scripted
        )
        opened.append(controller)
        return controller

    yield make
    for controller in opened:
        assert controller.close(PATIENCE_S)


class Reloadable:
    """A controller whose documents a test replaces."""

    def __init__(self, scripted, *clusters, build_plane=Plane):
        self.config = config(*clusters)
        self.controller = Controller(
            lambda: self.config, build_plane, make_discoverer=lambda: scripted
        )
        self.recorder = Recorder(self.controller)

    def reload(self, new):
        self.config = new
        self.controller._thread.submit(self.controller._reload()).result(PATIENCE_S)


@pytest.fixture
def open_reloadable(scripted):
    opened = []

    def make(*clusters, **options):
        opened.append(Reloadable(scripted, *clusters, **options))
        scripted.wait_for(lambda: scripted.starts)  # the control side is up
        return opened[-1]

    yield make
    for reloadable in opened:
        assert reloadable.controller.close(PATIENCE_S)


def endpoints(controller, name):
    return [str(e) for e in controller.publisher.current().clusters[name].endpoints]


def test_static_documents_are_ready_at_once_without_a_thread(open_controller):
    controller = open_controller(static("s", "10.0.0.1:80"))
    assert controller.wait_ready(0)
    assert controller.publisher.current().version == 1
    assert controller._thread.thread is None


def test_errors_of_the_first_load_reach_the_caller():
    error = ConfigError([Diagnostic("error", "x", "bad", Source("a.yaml", 1, 1))])

    def load():
        raise error

    with pytest.raises(ConfigError) as caught:
        Controller(load, Plane)
    assert caught.value is error


def test_static_clusters_work_while_a_name_does_not_resolve(open_controller):
    controller = open_controller(static("s", "10.0.0.1:80"), Cluster("r", discovery=A))
    assert endpoints(controller, "s") == ["10.0.0.1:80"]
    assert not controller.wait_ready(0)
    assert "no answer yet" in controller.publisher.current().clusters["r"].discovery_error


def test_ready_means_that_every_source_answered_if_only_with_an_error(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A), Cluster("b", discovery=B))
    scripted.say(A, ready("10.0.0.1:80"))
    scripted.wait_for(lambda: B in scripted.reports)
    assert not controller.publisher.ready
    scripted.say(B, EndpointSet(state="failed", error="NXDOMAIN"))
    assert controller.wait_ready(PATIENCE_S)
    assert endpoints(controller, "a") == ["10.0.0.1:80"]


def test_waiting_in_asyncio(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A))
    scripted.say(A, ready("10.0.0.1:80"))
    assert asyncio.run(controller.async_wait_ready(PATIENCE_S)) is True


def test_two_clusters_of_one_source_share_one_watch(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A), Cluster("a2", discovery=dns("a:80")))
    scripted.say(A, ready("10.0.0.1:80"))
    assert controller.wait_ready(PATIENCE_S)
    assert scripted.starts == [A]
    assert endpoints(controller, "a") == endpoints(controller, "a2") == ["10.0.0.1:80"]


def test_moving_endpoints_are_published_and_told_with_their_difference(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A), static("s"))
    recorder = Recorder(controller)
    scripted.say(A, ready("10.0.0.1:80", "10.0.0.2:80"))
    first = recorder.wait_for(EndpointsChanged)
    assert first == EndpointsChanged(2, "a", ("10.0.0.1:80", "10.0.0.2:80"), ())
    scripted.say(A, ready("10.0.0.2:80", "10.0.0.3:80"))
    second = recorder.wait_for(EndpointsChanged, 2)
    assert second == EndpointsChanged(3, "a", ("10.0.0.3:80",), ("10.0.0.1:80",))
    assert controller.publisher.current().version == 3


def test_reports_that_come_together_make_one_snapshot(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A), Cluster("b", discovery=B))
    scripted.wait_for(lambda: len(scripted.reports) == 2)

    def both():
        scripted.reports[A](ready("10.0.0.1:80"))
        scripted.reports[B](ready("10.0.0.2:80"))

    scripted.loop.call_soon_threadsafe(both)
    assert controller.wait_ready(PATIENCE_S)
    assert controller.publisher.current().version == 2


def test_each_plane_is_built_from_the_one_before(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A))
    first = controller.publisher.plane
    scripted.say(A, ready("10.0.0.1:80"))
    controller.wait_ready(PATIENCE_S)
    assert first.previous is None
    assert controller.publisher.plane.previous is first


def test_a_failing_source_keeps_its_endpoints_and_is_told_once_each_way(
    open_controller, scripted, caplog
):
    controller = open_controller(Cluster("a", discovery=A))
    recorder = Recorder(controller)
    good = ready("10.0.0.1:80")
    scripted.say(A, good)
    scripted.say(A, EndpointSet(good.endpoints, "stale", "timed out"))
    scripted.say(A, EndpointSet(good.endpoints, "stale", "refused"))
    scripted.say(A, good)
    assert recorder.wait_for(DiscoveryRecovered) == DiscoveryRecovered("dns a:80")
    assert recorder.of(DiscoveryFailed) == [DiscoveryFailed("dns a:80", "timed out")]
    recorder.wait_for(EndpointsChanged)
    assert endpoints(controller, "a") == ["10.0.0.1:80"]
    assert caplog.text.count("dns a:80: timed out") == 1


def test_a_plane_that_cannot_be_built_leaves_the_last_one_in_force(
    open_controller, scripted, caplog
):
    tried = threading.Event()

    def build(snapshot, previous):
        if snapshot.version == 2 and not tried.is_set():
            tried.set()
            raise ValueError("cannot build")
        return Plane(snapshot, previous)

    controller = open_controller(Cluster("a", discovery=A), build_plane=build)
    scripted.say(A, ready("10.0.0.1:80"))
    assert tried.wait(PATIENCE_S)
    assert controller.publisher.current().version == 1
    scripted.say(A, ready("10.0.0.2:80"))
    assert controller.wait_ready(PATIENCE_S)
    assert endpoints(controller, "a") == ["10.0.0.2:80"]
    assert "no plane could be built" in caplog.text


def test_closing_cancels_discovery_and_keeps_the_last_snapshot(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A))
    scripted.say(A, ready("10.0.0.1:80"))
    controller.wait_ready(PATIENCE_S)
    assert controller.close(PATIENCE_S) is True
    assert controller.close(PATIENCE_S) is True
    assert controller.closed
    assert scripted.cancelled == [A]
    assert endpoints(controller, "a") == ["10.0.0.1:80"]
    with pytest.raises(ClosedError):
        controller.subscribe(print)


def test_closing_wakes_those_who_wait(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A))
    scripted.wait_for(lambda: A in scripted.reports)
    results = []

    def wait():
        try:
            controller.wait_ready(PATIENCE_S)
        except ClosedError as error:
            results.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    controller.close(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert len(results) == 1


def test_closing_in_asyncio_does_not_block_the_loop(open_controller):
    controller = open_controller(Cluster("a", discovery=A))
    assert asyncio.run(controller.aclose(PATIENCE_S)) is True


def test_a_subscriber_may_close(open_controller, scripted):
    controller = open_controller(Cluster("a", discovery=A))
    closed = threading.Event()
    controller.subscribe(lambda event: (controller.close(PATIENCE_S), closed.set()))
    scripted.say(A, ready("10.0.0.1:80"))
    assert closed.wait(PATIENCE_S)


def test_events_of_other_parts_go_the_same_way(open_controller):
    controller = open_controller(static("s"))
    recorder = Recorder(controller)
    controller.emit(DiscoveryRecovered("elsewhere"))
    assert recorder.wait_for(DiscoveryRecovered) == DiscoveryRecovered("elsewhere")


def test_many_controllers_leave_no_thread(open_controller, scripted):
    before = threading.active_count()
    for _ in range(20):
        controller = Controller(
            lambda: config(Cluster("a", discovery=A)), Plane, make_discoverer=lambda: scripted
        )
        recorder = Recorder(controller)
        assert controller.close(PATIENCE_S)
        assert recorder.events == []
    assert threading.active_count() == before


def test_reloading_keeps_results_of_sources_that_stay_and_drops_the_others(
    open_reloadable, scripted
):
    mesh = open_reloadable(Cluster("a", discovery=A), Cluster("b", discovery=B))
    scripted.say(A, ready("10.0.0.1:80"))
    scripted.say(B, ready("10.0.0.2:80"))
    assert mesh.controller.wait_ready(PATIENCE_S)
    mesh.reload(config(Cluster("renamed", discovery=A)))
    assert endpoints(mesh.controller, "renamed") == ["10.0.0.1:80"]
    scripted.wait_for(lambda: scripted.cancelled == [B])
    assert scripted.starts == [A, B] or scripted.starts == [B, A]


def test_a_new_source_that_answers_soon_is_there_when_the_documents_take_effect(
    open_reloadable, scripted, monkeypatch
):
    monkeypatch.setattr(controller_module, "WARM_UP_S", PATIENCE_S)
    mesh = open_reloadable(Cluster("a", discovery=A))
    scripted.say(A, ready("10.0.0.1:80"))
    assert mesh.controller.wait_ready(PATIENCE_S)
    thread = threading.Thread(
        target=mesh.reload, args=[config(Cluster("a", discovery=A), Cluster("b", discovery=B))]
    )
    thread.start()
    scripted.say(B, ready("10.0.0.2:80"))
    applied = mesh.recorder.wait_for(ConfigApplied)
    thread.join(PATIENCE_S)
    assert applied.version == 3
    assert endpoints(mesh.controller, "b") == ["10.0.0.2:80"]


def test_a_new_source_that_does_not_answer_holds_up_nobody(open_reloadable, scripted, monkeypatch):
    monkeypatch.setattr(controller_module, "WARM_UP_S", 0.0)
    mesh = open_reloadable(Cluster("a", discovery=A))
    scripted.say(A, ready("10.0.0.1:80"))
    assert mesh.controller.wait_ready(PATIENCE_S)
    mesh.reload(config(Cluster("a", discovery=B), static("s", "10.0.0.3:80")))
    assert endpoints(mesh.controller, "s") == ["10.0.0.3:80"]
    assert endpoints(mesh.controller, "a") == ["10.0.0.1:80"]  # until its new source answers
    scripted.say(B, EndpointSet(state="failed", error="NXDOMAIN"))
    assert mesh.recorder.wait_for(EndpointsChanged, 2).removed == ("10.0.0.1:80",)
    assert endpoints(mesh.controller, "a") == []


def test_equal_documents_publish_nothing_unless_their_lines_moved(open_reloadable):
    def at_line(line):
        return Cluster("s", sources=(Source("a.yaml", line),))

    mesh = open_reloadable(at_line(1), Cluster("a", discovery=A))
    before = mesh.controller.publisher.plane
    mesh.reload(config(at_line(1), Cluster("a", discovery=A)))
    assert mesh.controller.publisher.plane is before
    mesh.reload(config(at_line(2), Cluster("a", discovery=A)))
    assert mesh.controller.publisher.current().clusters["s"].sources[0].line == 2


def test_documents_of_which_no_plane_can_be_built_are_refused(open_reloadable, scripted):
    def build(snapshot, previous):
        if "bad" in snapshot.clusters:
            raise ValueError("cannot build")
        return Plane(snapshot, previous)

    mesh = open_reloadable(Cluster("a", discovery=A), build_plane=build)
    mesh.reload(config(Cluster("a", discovery=A), static("bad"), Cluster("b", discovery=B)))
    rejected = mesh.recorder.wait_for(ConfigRejected)
    assert rejected.diagnostics[0].message == "ValueError: cannot build"
    assert set(mesh.controller.publisher.current().clusters) == {"a"}
    scripted.wait_for(lambda: scripted.cancelled == [B])
    mesh.reload(mesh.controller._documents.config)
    mesh.recorder.wait_for(ConfigApplied)


def test_the_same_refusal_is_told_and_logged_once(open_reloadable, caplog):
    mesh = open_reloadable(Cluster("a", discovery=A))
    first = Diagnostic("error", "x", "bad", Source("a.yaml", 3, 1))
    second = Diagnostic("error", "x", "worse", Source("a.yaml", 4, 1))
    for diagnostics in [(first,), (first,), (first, second)]:

        def load(found=diagnostics):
            raise ConfigError(found)

        mesh.controller._documents._load = load
        mesh.reload(None)
    events = [mesh.recorder.wait_for(ConfigRejected, n) for n in (1, 2)]
    assert [e.diagnostics for e in events] == [(first,), (first, second)]
    assert len(mesh.recorder.of(ConfigRejected)) == 2
    assert caplog.text.count("a.yaml:3:1: error: bad") == 1
    assert caplog.text.count("a.yaml:4:1: error: worse") == 1


def test_warnings_of_accepted_documents_are_summed_up(caplog):
    warnings = tuple(Diagnostic("warning", "x", f"w{n}", Source("a.yaml", n)) for n in (1, 2))
    Controller(lambda: config(diagnostics=warnings), Plane)
    assert caplog.messages == ["policy loaded with 2 warnings; the first: a.yaml:1:0: warning: w1"]


def test_a_child_that_cannot_start_a_thread_still_reads_the_last_plane(
    open_controller, scripted, monkeypatch, caplog
):
    def refuse(_self):
        raise RuntimeError("can't start new thread")

    controller = open_controller(Cluster("a", discovery=A), static("s", "10.0.0.1:80"))
    scripted.wait_for(lambda: A in scripted.reports)
    controller._thread.stop(PATIENCE_S)
    controller._thread = ControlThread()  # what a child finds
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        controller.after_fork_in_child()
        assert endpoints(controller, "s") == ["10.0.0.1:80"]
    assert "reload and discovery could not start" in caplog.text
