"""The control side in forked children, and when the interpreter ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from contextlib import suppress
from types import MappingProxyType

import pytest
from reload_support import PATIENCE_S, Plane, Watched, write

from meshclient.control import Controller
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import DnsSource, Endpoint, EndpointSet
from meshclient.model.snapshot import MeshConfig

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn of every fork beside threads; that is what is tested here.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


def in_child(body) -> None:
    """Run ``body`` in a forked child; its failure is this test's failure."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "a.json"
    write(path, a=1)
    return path


def descriptors() -> dict[str, str]:
    """Open descriptors and what they are; none of the listing itself."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def wait_ports(mesh: Watched, expected: dict[str, int]) -> None:
    """By polling: it must work without the parent's locks."""
    deadline = time.monotonic() + PATIENCE_S
    while mesh.ports != expected:
        assert time.monotonic() < deadline, (mesh.ports, expected)
        time.sleep(0.005)


def test_a_child_reads_at_once_and_reloads_for_itself(policy):
    with Watched(policy) as mesh:

        def child():
            assert threading.active_count() == 1
            assert mesh.ports == {"a": 1}
            assert threading.active_count() == 2  # that read started it again
            write(policy, a=2)
            wait_ports(mesh, {"a": 2})
            assert mesh.controller.wait_ready(PATIENCE_S)
            assert mesh.controller.close(PATIENCE_S)
            assert threading.active_count() == 1

        in_child(child)
        mesh.wait_ports({"a": 2})
        write(policy, a=3)
        mesh.wait_ports({"a": 3})


def test_a_change_before_the_first_read_in_the_child_is_seen(policy):
    with Watched(policy) as mesh:

        def child():
            write(policy, a=2)
            wait_ports(mesh, {"a": 2})

        in_child(child)


def test_children_of_children_that_never_read(policy):
    with Watched(policy) as mesh:
        in_child(lambda: in_child(lambda: (write(policy, a=4), wait_ports(mesh, {"a": 4}))))
        mesh.wait_ports({"a": 4})


def test_a_child_that_does_nothing_starts_nothing(policy):
    with Watched(policy):

        def child():
            assert threading.active_count() == 1

        in_child(child)


def test_closing_in_the_child_leaves_the_parent_alone(policy):
    with Watched(policy) as mesh:

        def child():
            assert mesh.controller.close(PATIENCE_S)
            assert mesh.ports == {"a": 1}

        in_child(child)
        write(policy, a=2)
        mesh.wait_ports({"a": 2})


def test_a_closed_controller_stays_closed_in_the_child(policy):
    with Watched(policy) as mesh:
        mesh.controller.close(PATIENCE_S)

        def child():
            assert mesh.ports == {"a": 1}
            assert threading.active_count() == 1

        in_child(child)


def test_forks_in_the_middle_of_reloads(policy):
    """Locks may be held by the control thread at the moment of the fork."""
    with Watched(policy) as mesh:
        stop = threading.Event()

        def edit():
            port = 10
            while not stop.is_set():
                port += 1
                write(policy.with_name("x.tmp"), a=port)
                os.replace(policy.with_name("x.tmp"), policy)

        editor = threading.Thread(target=edit)
        editor.start()
        try:
            for n in range(10):
                own = policy.with_name(f"own{n}.json")

                def child(own=own):
                    write(own, a=1)
                    with Watched(own) as fresh:
                        write(own, a=2)
                        wait_ports(fresh, {"a": 2})
                    version = mesh.version
                    deadline = time.monotonic() + PATIENCE_S
                    while mesh.version == version:  # the inherited one reloads, too
                        assert time.monotonic() < deadline
                        time.sleep(0.005)
                    assert mesh.controller.close(PATIENCE_S)

                in_child(child)
        finally:
            stop.set()
            editor.join(PATIENCE_S)
        write(policy, a=5)
        mesh.wait_ports({"a": 5})


def test_a_child_leaks_at_most_the_pipe_of_the_old_loop(policy):
    with Watched(policy) as mesh:
        write(policy, a=2)
        mesh.wait_ports({"a": 2})
        before = descriptors()

        def child():
            write(policy, a=3)
            wait_ports(mesh, {"a": 3})
            new = {n: to for n, to in descriptors().items() if before.get(n) != to}
            assert len(descriptors()) <= len(before) + 2, (new, before)

        in_child(child)


class PerProcess:
    """Answers every source with the id of the process that made it."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    async def watch(self, source, report):
        report(EndpointSet((Endpoint("127.0.0.1", self.pid),), "ready"))
        await asyncio.Event().wait()


def test_discovery_starts_anew_in_the_child_with_the_last_endpoints_meanwhile():
    source = DnsSource((Endpoint("a", 80),))
    config = MeshConfig(clusters=MappingProxyType({"a": Cluster("a", discovery=source)}))
    controller = Controller(lambda: config, Plane, make_discoverer=PerProcess)

    def port():
        return controller.publisher.current().clusters["a"].endpoints[0].port

    try:
        assert controller.wait_ready(PATIENCE_S)
        parent = os.getpid()

        def child():
            assert port() in (parent, os.getpid())
            deadline = time.monotonic() + PATIENCE_S
            while port() != os.getpid():
                assert time.monotonic() < deadline
                time.sleep(0.005)

        in_child(child)
        assert port() == parent
    finally:
        assert controller.close(PATIENCE_S)


IGNORED = ("-W", "ignore:This process:DeprecationWarning")
PROGRAM = """
import os, sys, threading
sys.path.insert(0, {support!r})
from pathlib import Path
from reload_support import Watched, write
path = Path({policy!r})
mesh = Watched(path)
write(path, a=2)
mesh.wait_ports({{"a": 2}})
{ending}
"""

ENDINGS = {
    "falls off the end": "",
    "sys.exit": "sys.exit(0)",
    "in the middle of a reload": "write(path, a=3)",
    "with a stuck subscriber": (
        "mesh.controller.subscribe(lambda e: threading.Event().wait())\n"
        "write(path, a=3)\nmesh.wait_ports({'a': 3})"
    ),
    "in a child": (
        "pid = os.fork()\n"
        "if pid == 0:\n    write(path, a=4)\n    mesh.wait_ports({'a': 4})\n    sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0"
    ),
    "in a child that never looked": (
        "pid = os.fork()\nif pid == 0:\n    sys.exit(0)\nassert os.waitpid(pid, 0)[1] == 0"
    ),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_the_interpreter_ends_soon_and_silently_with_an_open_controller(policy, ending):
    program = PROGRAM.format(
        support=os.path.dirname(__file__), policy=str(policy), ending=textwrap.dedent(ending)
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *IGNORED, "-c", program],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
