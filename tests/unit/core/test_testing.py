"""The public fakes: a clock that stands still, scripted chance, calls without a network."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import meshclient
from meshclient import errors
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.testing import FakeClock, ScriptedRandom, request, run_call

POLICY = {
    "version": 1,
    "services": {
        "reviews": {
            "endpoints": ["10.0.0.1:9080", "10.0.0.2:9080"],
            "timeout": "2s",
            "retries": {"attempts": 2, "on": ["connect-failure", 503], "per_try_timeout": "500ms"},
        },
        "old": {"endpoints": ["10.0.0.3:80"], "routes": [{"redirect": {"host": "new"}}]},
    },
}


@pytest.fixture
def mesh():
    with meshclient.Mesh.from_documents([POLICY]) as made:
        yield made


def test_a_clock_stands_still_until_it_is_moved():
    clock = FakeClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(0.5)
    clock.sleep(1.0)
    asyncio.run(clock.async_sleep(2.0))
    assert (clock(), clock.sleeps) == (8.5, [1.0, 2.0])
    assert repr(clock) == "<FakeClock 8.5 s, slept 2 times>"


@pytest.mark.parametrize("seconds", [-0.1, float("nan")])
def test_a_clock_does_not_run_backwards(seconds):
    with pytest.raises(ValueError, match="forwards only"):
        FakeClock().advance(seconds)


def test_scripted_numbers_come_in_order_and_end_loudly():
    rand = ScriptedRandom(3, 1)
    assert [rand(), rand()] == rand.drawn == [3, 1]
    with pytest.raises(LookupError, match="all 2 scripted numbers are used up"):
        rand()
    assert repr(ScriptedRandom(3, 1)) == "<ScriptedRandom drawn=0 left=2>"


def test_a_seed_goes_on_after_the_script_and_repeats():
    first, second = ScriptedRandom(7, seed=1), ScriptedRandom(7, seed=1)
    numbers = [first() for _ in range(5)]
    assert numbers == [second() for _ in range(5)]
    assert numbers[0] == 7
    assert all(0 <= n < 2**64 for n in numbers)


@pytest.mark.parametrize("bad", [-1, 2**64])
def test_scripted_numbers_are_unsigned_64_bit(bad):
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        ScriptedRandom(0, bad)


def test_a_call_is_played_to_its_end(mesh):
    clock = FakeClock(0.0)
    played = run_call(
        mesh,
        request("GET", "http://reviews/"),
        [ResetReason.CONNECTION_FAILURE, (503, 0.2), (200, 0.1)],
        clock,
        ScriptedRandom(0, 0, 0, 0, 10, 0, 0, seed=1),
    )
    assert (played.status, played.error) == (200, None)
    assert [a.outcome for a in played.attempts] == [
        "remote connection failure",
        "failed_retryable",
        "success",
    ]
    assert played.delays_s == clock.sleeps
    assert clock() == pytest.approx(0.3 + sum(played.delays_s))
    assert played.sent[0].get("host") == "reviews"
    assert mesh.dump()["clusters"]["reviews"] == {"10.0.0.1:9080": 0, "10.0.0.2:9080": 0}
    assert repr(played) == f"<PlayedCall 200 tries=3 delays_s={played.delays_s}>"


def test_a_slow_try_ends_as_its_limits_say(mesh):
    clock = FakeClock(0.0)
    played = run_call(mesh, request("GET", "http://reviews/"), [(200, 60.0)], clock)
    assert type(played.error) is errors.PerTryTimeout
    assert clock() == 0.5


def test_the_shorter_of_two_limits_ends_a_try(mesh):
    clock = FakeClock(0.0)
    head = request("GET", "http://reviews/", {"x-envoy-upstream-rq-per-try-timeout-ms": "0"})
    played = run_call(mesh, head, [(Outcome(200), 60.0)], clock)
    assert type(played.error) is errors.RouteTimeout
    assert clock() == 2.0


def test_a_call_that_tries_more_than_was_scripted_fails_the_test_and_leaves_nothing(mesh):
    with pytest.raises(LookupError, match=r"makes try 2 at 10\.0\.0\.\d:9080, but only 1 outcomes"):
        run_call(mesh, request("GET", "http://reviews/"), [503])
    assert set(mesh.dump()["clusters"]["reviews"].values()) == {0}


def test_local_replies_need_no_outcome(mesh):
    played = run_call(mesh, request("GET", "http://old/x"), [])
    assert played.reply is not None
    assert played.status == 301
    assert played.reply.headers.get("location") == "http://new/x"


PAGE = Path(__file__).parents[3] / "docs" / "testing.md"
PAGE_POLICY = """\
version: 1
services:
  reviews:
    endpoints:
      - {address: 10.0.0.1:1, labels: {version: v1}}
      - {address: 10.0.0.2:1, labels: {version: v1}}
      - {address: 10.0.0.3:1, labels: {version: v3}}
    subsets: {v1: {labels: {version: v1}}, v3: {labels: {version: v3}}}
    timeout: 2s
    retries: {attempts: 3, on: [connect-failure, reset], per_try_timeout: 500ms}
    routes: [{to: {v1: 90, v3: 10}}]
"""


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "reviews.yaml").write_text(PAGE_POLICY)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    examples = [value for name, value in names.items() if name.startswith("test_")]
    assert len(examples) == 3
    for example in examples:
        example()


def test_a_request_needs_a_whole_url():
    with pytest.raises(ValueError, match="scheme and host"):
        request("GET", "/reviews")
