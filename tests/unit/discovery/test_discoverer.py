"""The choice by source type, and what importing it costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from meshclient.discovery.base import ChangeReporter, Discoverer, Report
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    EndpointSet,
    EndpointSource,
    OriginalDestination,
    RegistrySource,
    StaticSource,
)


class Recorder:
    """Stands for the DNS."""

    async def watch(self, source: DnsSource, report: Report) -> None:
        report(EndpointSet(source.targets, "ready"))
        await asyncio.Event().wait()


def reports_of(source: EndpointSource) -> list[EndpointSet]:
    async def scenario() -> list[EndpointSet]:
        found: list[EndpointSet] = []
        task = asyncio.ensure_future(Discoverer(dns=Recorder()).watch(source, found.append))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()  # runs until cancelled, whatever the source
        task.cancel()
        await asyncio.wait([task])
        return found

    return asyncio.run(scenario())


@pytest.mark.parametrize("source", [StaticSource(), OriginalDestination(8080)])
def test_nothing_to_discover_reports_nothing(source: EndpointSource) -> None:
    assert reports_of(source) == []


def test_dns_goes_to_dns() -> None:
    targets = (Endpoint("web", 80),)
    assert reports_of(DnsSource(targets)) == [EndpointSet(targets, "ready")]


def test_a_registry_without_a_module_fails_and_names_it() -> None:
    (found,) = reports_of(RegistrySource("consul", (("service", "web"),)))
    assert (found.state, found.endpoints) == ("failed", ())
    assert "consul (service=web)" in found.error
    assert "no installed discovery module" in found.error


def test_only_changes_of_endpoints_or_state_are_passed_on() -> None:
    found: list[EndpointSet] = []
    report = ChangeReporter(found.append)
    first, other_text = EndpointSet((), "failed", "a"), EndpointSet((), "failed", "b")
    ready = EndpointSet((), "ready")
    for each in (first, other_text, ready, ready, first):
        report(each)
    assert found == [first, ready, first]


def test_importing_discovery_loads_no_dnspython() -> None:
    program = (
        "import sys, meshclient.discovery.base as b; b.Discoverer();"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] == 'dns'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr
