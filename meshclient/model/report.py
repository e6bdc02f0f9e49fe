"""What happened to one call: attached to every response and every error.

A report is a view of the call's own record, built when somebody looks, so
that a call nobody asks about pays for one small object only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class AttemptRecord(Protocol):
    """What the core keeps of a try (see :class:`meshclient.call.Attempt`)."""

    @property
    def cluster(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def duration_s(self) -> float: ...


class CallRecord(Protocol):
    """What the core keeps of a call (see :class:`meshclient.call.Call`)."""

    @property
    def host(self) -> str: ...
    @property
    def snapshot_version(self) -> int: ...
    @property
    def virtual_host_name(self) -> str: ...
    @property
    def route_name(self) -> str: ...
    @property
    def cluster_name(self) -> str: ...
    @property
    def attempts(self) -> Sequence[AttemptRecord]: ...
    @property
    def flags(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def fallen_back(self) -> str: ...


class AttemptReport:
    """One try. ``duration_s`` runs from the pick to the response head (or the
    failure); ``outcome`` is a word such as ``success``, ``failed`` or the
    reset reason; ``status`` is 0 where no response came."""

    __slots__ = ("cluster", "duration_s", "endpoint", "outcome", "status")

    def __init__(self, record: AttemptRecord) -> None:
        self.cluster = record.cluster
        self.endpoint = record.endpoint
        self.outcome = record.outcome
        self.status = record.status
        self.duration_s = record.duration_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f"<AttemptReport {self.endpoint} {self.outcome} {self.duration_s * 1000:.1f} ms>"


class RecordedCall:
    """The values of a finished call without the call: what a pickled report keeps."""

    __slots__ = (
        "attempts",
        "cluster_name",
        "fallen_back",
        "flags",
        "host",
        "notes",
        "route_name",
        "snapshot_version",
        "virtual_host_name",
    )

    def __init__(self, call: CallRecord) -> None:
        self.host = call.host
        self.snapshot_version = call.snapshot_version
        self.virtual_host_name = call.virtual_host_name
        self.route_name = call.route_name
        self.cluster_name = call.cluster_name
        self.attempts = [AttemptReport(record) for record in call.attempts]
        self.flags = call.flags
        self.notes = call.notes
        self.fallen_back = call.fallen_back


class CallReport:
    """Route, cluster, endpoint, attempts and Envoy's response flags of one call.

    ``endpoint`` is that of the last try, empty if none was made. ``notes`` are
    sentences such as why a retry was not made. Safe to keep and to read from
    any thread once the call has ended.
    """

    __slots__ = ("_call",)

    def __init__(self, call: CallRecord) -> None:
        self._call = call

    @property
    def host(self) -> str:
        """What the caller dialled."""
        return self._call.host

    @property
    def snapshot_version(self) -> int:
        """Version of the snapshot that decided, from start to end."""
        return self._call.snapshot_version

    @property
    def virtual_host(self) -> str:
        """Name of the virtual host; empty for a host that no policy knows."""
        return self._call.virtual_host_name

    @property
    def route(self) -> str:
        """Name of the route (as written, or made from its place)."""
        return self._call.route_name

    @property
    def cluster(self) -> str:
        """Name of the cluster the route chose."""
        return self._call.cluster_name

    @property
    def endpoint(self) -> str:
        """``address:port`` of the last try."""
        attempts = self._call.attempts
        return attempts[-1].endpoint if attempts else ""

    @property
    def attempts(self) -> list[AttemptReport]:
        """Every try in order."""
        return [AttemptReport(record) for record in self._call.attempts]

    @property
    def flags(self) -> tuple[str, ...]:
        """Envoy's response flags (``UF``, ``URX`` ...), in the order they were set."""
        return self._call.flags

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for people."""
        return self._call.notes

    @property
    def fallback(self) -> str:
        """What answered in the place of the failed call: ``function``, ``last-good``,
        ``service`` or ``static``; empty, nearly always: nothing. Flags and notes tell of the
        failure."""
        return self._call.fallen_back

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "host": self.host,
            "snapshot_version": self.snapshot_version,
            "virtual_host": self.virtual_host,
            "route": self.route,
            "cluster": self.cluster,
            "endpoint": self.endpoint,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
            "flags": list(self.flags),
            "notes": list(self.notes),
            "fallback": self.fallback,
        }

    def __reduce__(self) -> tuple[type[CallReport], tuple[RecordedCall]]:
        # Errors travel between processes (Celery, multiprocessing); the call,
        # with its plane and its locks, must not.
        return (CallReport, (RecordedCall(self._call),))

    def __repr__(self) -> str:
        flags = ",".join(self.flags) or "-"
        return (
            f"<CallReport {self.host} route={self.route or '-'} cluster={self.cluster or '-'} "
            f"endpoint={self.endpoint or '-'} attempts={len(self._call.attempts)} flags={flags}>"
        )
