"""What stands before the router: entered in order, left exactly once, whatever the ending."""

from __future__ import annotations

import pytest
from core_support import (
    BROKEN,
    RETRY,
    call_of,
    cluster,
    head,
    host_of,
    plane_of,
    reset,
    seed,
    snapshot_of,
    status,
    to,
)

from meshclient import errors
from meshclient.model.headers import HeaderMap
from meshclient.model.matching import Fraction
from meshclient.model.request import LocalReply
from meshclient.model.routes import DirectResponse, Fault, Route
from meshclient.plane import build_plane
from meshclient.resilience.filter import ENTERED, Verdict

DELAYED = Fault(delay_s=2.0, delay_fraction=Fraction(100))


class Recording:
    """A filter that does as it is told and notes what happens."""

    def __init__(self, *verdicts, after=None):
        self.verdicts = list(verdicts)
        self.after_verdict = after
        self.log = []

    def enter(self, head, now, rand):
        self.log.append(("enter", now))
        return self.verdicts.pop(0) if self.verdicts else None

    def after(self, held, answer, head, now, rand):
        self.log.append(("after", answer, now))
        return self.after_verdict

    def leave(self, status, grpc_status, started, now):
        self.log.append(("leave", status, started, now))


def call_through(*filters, action=None, **options):
    """A call whose route has these filters."""
    plane = plane_of(host_of(Route(action or to(**options), name="r")))
    table = next(iter(plane.tables.values()))
    table.hosts[0].routes[0].filters = list(filters)
    return call_of(plane)


def replied(code=429):
    return Verdict(reply=LocalReply(code, HeaderMap([])), flag="RL", why="too many")


def test_filters_that_pass_cost_the_call_nothing_and_are_not_left():
    watching = Recording()
    call = call_through(watching)
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, status(200), 1.0) is None
    attempt.close(2.0)
    assert watching.log == [("enter", 0.0)]


def test_a_filter_that_counts_is_left_when_the_body_is_closed():
    counting = Recording(ENTERED)
    call = call_through(counting)
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, status(503), 1.0) is None
    assert counting.log == [("enter", 0.0)]
    attempt.close(2.0)
    attempt.close(3.0)
    assert counting.log == [("enter", 0.0), ("leave", 503, 0.0, 2.0)]


def test_a_reply_ends_the_call_and_those_entered_before_are_left():
    first, second, third = Recording(ENTERED), Recording(replied()), Recording()
    call = call_through(first, second, third)
    assert call.reply.status == 429
    assert call.flags == ("RL",)
    assert call.notes == ("too many",)
    assert first.log == [("enter", 0.0), ("leave", 429, 0.0, 0.0)]
    assert third.log == []


def test_a_hold_stops_the_chain_until_it_is_over():
    holding, following = Recording(Verdict(wait_s=2.0)), Recording()
    call = call_through(holding, following)
    assert call.hold.wait_s == 2.0
    assert following.log == []
    call.resume(2.0)
    assert call.hold is None
    assert following.log == [("enter", 2.0)]
    attempt = call.next_attempt(2.0)
    call.settle(attempt, status(200), 3.0)
    attempt.close(3.0)
    assert holding.log[-1] == ("leave", 200, 2.0, 3.0)


def test_an_answer_is_handed_to_the_filter_that_asked():
    asking = Recording(Verdict(ask="how much?"), after=replied(503))
    call = call_through(asking)
    assert call.hold.ask == "how much?"
    call.resume(1.0, "too much")
    assert ("after", "too much", 1.0) in asking.log
    assert call.reply.status == 503
    assert asking.log[-1] == ("leave", 503, 0.0, 1.0)


def test_the_route_timeout_starts_after_the_hold():
    call = call_through(Recording(Verdict(wait_s=5.0)), timeout_s=1.0)
    call.resume(5.0)
    assert call.next_attempt(5.0).deadline == 6.0


def test_a_caller_who_gives_up_while_held_gets_a_deadline_error():
    holding = Recording(Verdict(wait_s=5.0))
    call = call_through(holding)
    call.give_up_at = 1.0
    call.resume(1.0)
    with pytest.raises(errors.DeadlineExceeded):
        call.next_attempt(1.0)
    assert holding.log[-1] == ("leave", 504, 0.0, 1.0)


@pytest.mark.parametrize(
    "ending",
    ["no endpoint", "reset", "abandoned", "rejected", "refused", "retries over"],
)
def test_every_ending_leaves_exactly_once(ending):
    counting = Recording(ENTERED)
    if ending == "no endpoint":
        plane = plane_of(host_of(Route(to(), name="r")), cluster(count=0))
        next(iter(plane.tables.values())).hosts[0].routes[0].filters = [counting]
        call = call_of(plane)
        with pytest.raises(errors.NoHealthyEndpoint):
            call.next_attempt(1.0)
    else:
        call = call_through(counting, retry=RETRY if ending == "retries over" else None)
        attempt = call.next_attempt(0.0)
        if ending == "abandoned":
            call.abandon(1.0)
        elif ending == "rejected":
            call.reject(attempt, ValueError("bad"), 1.0)
        elif ending == "refused":
            call.refuse(attempt, "no name")
        else:
            delay_s = call.settle(attempt, reset(BROKEN), 1.0)
            attempt.close(1.0)
            while delay_s is not None:
                attempt = call.next_attempt(1.0)
                delay_s = call.settle(attempt, reset(BROKEN), 1.0)
                attempt.close(1.0)
    call.abandon(9.0)
    assert [entry[0] for entry in counting.log] == ["enter", "leave"]


def test_faults_come_before_direct_responses_too():
    plane = plane_of(host_of(Route(DirectResponse(204), name="r", fault=DELAYED)))
    call = call_of(plane)
    assert call.reply is None
    call.resume(2.0)
    assert call.reply.status == 204
    assert call.flags == ("DI",)


def test_a_dry_call_enters_nothing():
    plane = plane_of(host_of(Route(to(), name="r", fault=DELAYED)))
    call = call_of(plane, head(), dry=True)
    assert call.hold is None
    assert call.cluster is not None


def test_filter_state_survives_an_update_where_the_settings_stay_equal():
    def update(plane, fault):
        return build_plane(snapshot_of(host_of(Route(to(), fault=fault))), plane, seed)

    first = update(None, DELAYED)
    second = update(first, DELAYED)
    third = update(second, Fault())

    def filters(plane):
        return next(iter(plane.tables.values())).hosts[0].routes[0].filters

    assert filters(first)[0] is filters(second)[0]
    assert filters(third)[0] is not filters(second)[0]
    assert len(third.filters.by_settings) == 1
