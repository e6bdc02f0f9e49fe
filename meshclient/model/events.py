"""What ``mesh.subscribe`` delivers: typed, immutable, safe to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from meshclient.model.source import Diagnostic


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. Delivered in order, on one background thread."""


@dataclass(frozen=True, slots=True)
class ConfigApplied(Event):
    """A snapshot made from new documents is in force."""

    version: int
    files: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRejected(Event):
    """Documents were refused; the last good snapshot (``version``) stays."""

    version: int
    diagnostics: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class EndpointsChanged(Event):
    """Discovery moved the endpoints of a cluster (texts are ``address:port``)."""

    version: int
    cluster: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiscoveryFailed(Event):
    """A source stopped answering; its last good endpoints, if any, stay in use."""

    source: str
    error: str


@dataclass(frozen=True, slots=True)
class DiscoveryRecovered(Event):
    """A failing source answers again."""

    source: str


@dataclass(frozen=True, slots=True)
class EndpointEjected(Event):
    """Outlier detection found an endpoint wanting.

    ``reason`` is Envoy's name in lower case (``consecutive_5xx``,
    ``consecutive_gateway_failure``, ``consecutive_local_origin_failure``, ``success_rate``,
    ``failure_percentage``, ``success_rate_local_origin``, ``failure_percentage_local_origin``).
    ``enforced`` False: only detected, and ``withheld`` says what kept it in use
    (``enforcing percentage``, ``max_ejection_percent``, ``already ejected``); such an event comes
    once between two sweeps. ``for_s``: it stays out for at least so long, until the next sweep
    after that. ``ejections``: how often by now.
    The numbers that decided: ``errors_in_a_row``, or ``success_rate`` (0-100) against
    ``average`` and ``threshold`` of the cluster; None where they had no part.
    """

    cluster: str
    endpoint: str
    reason: str
    enforced: bool
    withheld: str = ""
    for_s: float = 0.0
    ejections: int = 0
    errors_in_a_row: int | None = None
    success_rate: float | None = None
    average: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class EndpointUnejected(Event):
    """An ejected endpoint gets calls again, after ``after_s``; ``cause`` says why."""

    cluster: str
    endpoint: str
    cause: Literal["time", "health check"]
    after_s: float


@dataclass(frozen=True, slots=True)
class EndpointDegraded(Event):
    """An endpoint called itself degraded: it gets calls only where healthy ones do not
    suffice, for at least ``for_s``."""

    cluster: str
    endpoint: str
    for_s: float


@dataclass(frozen=True, slots=True)
class EndpointUndegraded(Event):
    """A degraded endpoint counts as healthy again, after ``after_s``."""

    cluster: str
    endpoint: str
    after_s: float


@dataclass(frozen=True, slots=True)
class HealthChanged(Event):
    """Active checks think otherwise of an endpoint (``address:port``) than before.

    ``healthy``: all checks pass. ``flags`` are all of the endpoint's, in Envoy's words;
    ``why`` is what the deciding check found.
    """

    cluster: str
    endpoint: str
    healthy: bool
    flags: str
    why: str


@dataclass(frozen=True, slots=True)
class RetryLayerFound(Event):
    """Somebody else repeats the requests to a cluster, too; each layer multiplies the load of
    an outage. Told once per cluster. ``evidence`` is a sentence with the header that shows it."""

    cluster: str
    evidence: str


@dataclass(frozen=True, slots=True)
class BreakerEvent(Event):
    """A circuit breaker changed its state.

    ``scope`` says what it stands for in words; ``service``, ``cluster``, ``endpoint`` and
    ``route`` in names, empty where it is not that narrow. ``document`` is where its
    settings stand.
    """

    scope: str
    service: str
    cluster: str = ""
    endpoint: str = ""
    route: str = ""
    document: str = ""


@dataclass(frozen=True, slots=True)
class BreakerOpened(BreakerEvent):
    """No calls for ``for_s`` seconds.

    ``reason``: ``consecutive_failures``, ``failure_rate``, ``slow_call_rate``,
    ``probe_failed``, ``manual``, ``isolated`` (until closed by hand) or ``elsewhere`` (another
    process, or the owner of the pybreaker object). The numbers that decided:
    ``failures_in_a_row``; of ``calls`` in the window, how many percent failed or were slow.
    ``cause`` is the class of the last exception.
    """

    reason: str = ""
    for_s: float = 0.0
    failures_in_a_row: int = 0
    calls: int = 0
    failed_percent: float = 0.0
    slow_percent: float = 0.0
    cause: str = ""


@dataclass(frozen=True, slots=True)
class BreakerHalfOpen(BreakerEvent):
    """After ``open_s``, at most ``probes`` calls at a time find out; ``successes_needed``
    of them close it."""

    open_s: float = 0.0
    probes: int = 1
    successes_needed: int = 1


@dataclass(frozen=True, slots=True)
class BreakerClosed(BreakerEvent):
    """Calls pass again. ``reason``: ``probes_passed`` (after ``successes``), ``manual`` or
    ``elsewhere``; ``after_s`` is since it began to probe, or was opened."""

    reason: str = ""
    after_s: float = 0.0
    successes: int = 0


@dataclass(frozen=True, slots=True)
class BreakerStorageFailed(Event):
    """The storage through which processes share breakers does not answer: each process
    goes on by itself."""

    namespace: str
    error: str


@dataclass(frozen=True, slots=True)
class BreakerStorageRecovered(Event):
    """The shared storage answers again, after ``after_s``."""

    namespace: str
    after_s: float


@dataclass(frozen=True, slots=True)
class MirrorCompared(Event):
    """A mirror's answer was held against the real one of ``cluster``.

    ``differences`` are sentences, at most 10, such as ``status: 200, mirror 500`` or
    ``$.total: 3, mirror 4``; none when ``equal``.
    """

    cluster: str
    mirror: str
    equal: bool
    differences: tuple[str, ...] = ()
