"""What happened to one call: attached to every response and every error."""

from __future__ import annotations

from typing import Any


class AttemptReport:
    """One try. ``duration_s`` runs from the pick to the head (or the failure)."""

    __slots__ = ("cluster", "duration_s", "endpoint", "outcome", "status")

    def __init__(
        self, cluster: str, endpoint: str, outcome: str, status: int, duration_s: float
    ) -> None:
        self.cluster = cluster
        self.endpoint = endpoint
        self.outcome = outcome
        self.status = status
        self.duration_s = duration_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f"<AttemptReport {self.endpoint} {self.outcome} {self.duration_s * 1000:.1f} ms>"


class CallReport:
    """Route, cluster, endpoint, attempts and Envoy's response flags of one call.

    ``endpoint`` is that of the last try, empty if none was made. ``notes`` are
    sentences such as why a retry was not made.
    """

    __slots__ = (
        "attempts",
        "cluster",
        "endpoint",
        "flags",
        "host",
        "notes",
        "route",
        "snapshot_version",
        "virtual_host",
    )

    def __init__(self, host: str, snapshot_version: int) -> None:
        self.host = host
        self.snapshot_version = snapshot_version
        self.virtual_host = ""
        self.route = ""
        self.cluster = ""
        self.endpoint = ""
        self.attempts: list[AttemptReport] = []
        self.flags: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["attempts"] = [attempt.to_dict() for attempt in self.attempts]
        values["flags"] = list(self.flags)
        values["notes"] = list(self.notes)
        return values

    def __repr__(self) -> str:
        flags = ",".join(self.flags) or "-"
        return (
            f"<CallReport {self.host} route={self.route or '-'} cluster={self.cluster or '-'} "
            f"endpoint={self.endpoint or '-'} attempts={len(self.attempts)} flags={flags}>"
        )
