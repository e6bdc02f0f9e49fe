"""What of an inbound request goes along with the calls made for it, as a setting.

Values only; reading and adding headers is :mod:`meshclient.telemetry`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How a deadline header states time: what is left, or when it ends (Unix time).
DeadlineFormat = Literal["milliseconds", "seconds", "unix_milliseconds", "unix_seconds"]
#: What hosts that no policy knows are told.
UnknownHosts = Literal["none", "trace", "all"]


@dataclass(frozen=True, slots=True)
class DeadlineHeader:
    """A header of the organisation's own that says how long a caller waits.

    ``name`` is lower-case. Whole or decimal numbers; 0 and below: the time is over.
    """

    name: str
    format: DeadlineFormat = "milliseconds"


@dataclass(frozen=True, slots=True)
class Propagation:
    """What is taken in from inbound requests, and carried on by outbound calls.

    ``headers`` are further names (lower-case) to carry on: tenant, lane, end user.
    ``trace`` covers W3C, B3, ``x-ot-span-context`` and ``x-cloud-trace-context``;
    ``request_id`` also makes one where an inbound request has none. ``deadline``: the
    caller's remaining time bounds outbound calls. ``unknown_hosts``: hosts that no policy
    knows get nothing, trace context and request id, or everything.
    """

    headers: tuple[str, ...] = ()
    trace: bool = True
    baggage: bool = True
    request_id: bool = True
    deadline: bool = True
    deadline_header: DeadlineHeader | None = None
    unknown_hosts: UnknownHosts = "trace"


DEFAULT_PROPAGATION = Propagation()
