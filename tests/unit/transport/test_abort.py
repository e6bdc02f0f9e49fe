"""The handle that ends a blocking exchange: it hits what the exchange holds, and nothing else."""

from __future__ import annotations

import pytest

from meshclient.model.cluster import Limits
from meshclient.model.outcome import ResetReason
from meshclient.transport.abort import Abort, AbortableRequest
from meshclient.transport.interface import WireError, WireRequest
from meshclient.transport.slot_waiters import ThreadWaiter
from meshclient.transport.slots import slots_for


class Connection:
    """Counts what is done to it."""

    def __init__(self) -> None:
        self.cancelled = self.closed = self.returned = 0
        self._done = self._give_back

    def _give_back(self, connection: Connection) -> None:
        assert connection is self
        self.returned += 1

    def cancel(self) -> None:
        self.cancelled += 1

    def close(self) -> None:
        self.closed += 1


def test_what_is_held_is_cancelled_once() -> None:
    abort, connection = Abort(), Connection()
    abort.takes(connection)
    abort.abort()
    abort.abort()
    assert (connection.cancelled, connection.closed) == (1, 0)


def test_a_connection_that_was_given_back_is_anothers() -> None:
    abort, connection = Abort(), Connection()
    abort.takes(connection)
    connection._done(connection)
    abort.abort()
    assert (connection.returned, connection.cancelled) == (1, 0)
    other = Abort()
    other.takes(connection)
    connection._done(connection)
    connection._done(connection)
    assert connection.returned == 3, "each exchange puts the way back as it was"


def test_after_the_abort_nothing_is_taken() -> None:
    abort, connection = Abort(), Connection()
    abort.abort()
    with pytest.raises(WireError) as caught:
        abort.takes(connection)
    assert (caught.value.reason, connection.closed) == (ResetReason.CANCELLED, 1)
    with pytest.raises(WireError):
        abort.holds(Connection())


def test_only_the_last_that_is_held_counts() -> None:
    abort, opening, connection = Abort(), Connection(), Connection()
    abort.holds(opening)
    abort.takes(connection)
    abort.abort()
    assert (opening.cancelled, connection.cancelled) == (0, 1)


@pytest.mark.parametrize("before", [True, False])
def test_a_place_in_the_queue_is_given_up(before: bool) -> None:
    slots = slots_for(Limits(max_connections=1, max_pending_requests=5))
    assert slots is not None
    pool, other = object(), ThreadWaiter(None)
    other.pool = pool
    assert slots.take(other)
    waiter, abort = ThreadWaiter(pool), Abort()
    assert not slots.take(waiter)
    if before:
        abort.abort()
        abort.waits(slots, waiter)
    else:
        abort.waits(slots, waiter)
        abort.abort()
    with pytest.raises(WireError):
        waiter.wait(slots, 0.0, "pool")
    assert slots.waiting == 0


def test_an_ordinary_request_has_no_handle() -> None:
    request = WireRequest(b"GET", b"/", [], b"body", response_timeout_s=1.0, deadline=5.0)
    assert request.abort is None
    abort = Abort()
    made = AbortableRequest(request, abort)
    assert made.abort is abort
    assert all(getattr(made, name) == getattr(request, name) for name in WireRequest.__slots__)
