"""Active checks and the clusters that hold the checked endpoints: a result goes to all of them.

One check of one address serves every cluster that asks for just that (the subsets of a
service, say). Counts, flags and what is to be told are kept here; no clock, no schedule,
no I/O. One thread owns all of it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from meshclient.model.check_result import CheckResult
from meshclient.model.events import HealthChanged
from meshclient.model.health import (
    DEGRADED_ACTIVE_HC,
    FAILED_OUTLIER_CHECK,
    PENDING_DYNAMIC_REMOVAL,
    UNHEALTHY,
    flag_names,
)
from meshclient.resilience.health_check import ACTIVE_FLAGS, CheckState, combined_flags


class Counters:
    """What was checked for one cluster. Names are Envoy's (``cluster.<name>.health_check.``)."""

    __slots__ = ("attempt", "failure", "network_failure", "passive_failure", "success")

    def __init__(self) -> None:
        self.attempt = 0
        self.success = 0
        self.failure = 0
        self.network_failure = 0
        self.passive_failure = 0

    def note(self, result: CheckResult) -> None:
        """Count a result."""
        if result.passed:
            self.success += 1
            return
        self.failure += 1
        if result.kind in ("network", "timeout"):
            self.network_failure += 1
        elif result.kind == "passive":
            self.passive_failure += 1


class Session:
    """One check of one address. ``probe`` is how it is asked, ``task`` who asks; neither is
    touched here."""

    __slots__ = ("check", "key", "members", "probe", "task")

    def __init__(self, key: Hashable, check: CheckState, probe: Any = None) -> None:
        self.key = key
        self.check = check
        self.probe = probe
        self.task: Any = None
        self.members: list[Member] = []

    def attempted(self) -> None:
        """A check begins."""
        for member in self.members:
            member.watched.counters.attempt += 1

    def settle(self, result: CheckResult, now: float) -> None:
        """Note a result, for every cluster that holds the endpoint."""
        was_failed = self.check.failed
        self.check.take(result)
        for member in self.members:
            member.watched.counters.note(result)
            if result.passed and was_failed:
                member.state.since = now  # slow start counts from here
            member.apply(result.why)
            if result.passed:
                member.tell_detector(now)

    def has_traffic(self) -> bool:
        """Whether one of its clusters was ever used."""
        return any(member.watched.has_traffic() for member in self.members)


class Member:
    """An endpoint of a cluster, with its checks."""

    __slots__ = ("sessions", "state", "watched")

    def __init__(self, watched: Watched, state: Any, sessions: tuple[Session, ...]) -> None:
        self.watched = watched
        self.state = state
        self.sessions = sessions

    @property
    def failed(self) -> bool:
        """Whether one of the checks fails."""
        return any(session.check.failed for session in self.sessions)

    def apply(self, why: str | None) -> None:
        """Give the endpoint's state the flags that its checks raise; None: tell nobody."""
        policy = self.watched.cluster_state.cluster.policy
        checks = [session.check for session in self.sessions]
        flags = combined_flags(checks, policy.ignore_new_hosts_until_first_hc)
        before = self.state.flags
        self.state.flags = (before & ~ACTIVE_FLAGS) | flags
        self.watched.note_change(self.state, before, why)

    def tell_detector(self, now: float) -> None:
        """An endpoint that passes its checks need not sit out its ejection."""
        detector, before = self.watched.cluster_state.detector, self.state.flags
        if detector is None or self.failed or not before & FAILED_OUTLIER_CHECK:
            return
        if detector.on_health_check_passed(self.state, now):
            self.watched.cluster_state.urge()  # its event is told with the next sweep, now
        self.watched.note_change(self.state, before, "")

    def leave(self) -> None:
        """Its cluster has it no more."""
        for session in self.sessions:
            session.members.remove(self)


class Watched:
    """A cluster whose endpoints are checked. ``before``: what the same cluster was in the
    last plane; its counts go on."""

    __slots__ = ("changes", "cluster_state", "counters", "members", "used")

    def __init__(self, cluster_state: Any, before: Watched | None = None) -> None:
        self.cluster_state = cluster_state
        self.members: dict[int, Member] = {}
        self.counters: Counters = before.counters if before else Counters()
        self.used: bool = before is not None and before.used
        #: Endpoints that are not yet weighed anew: their flags before, and why they changed.
        self.changes: dict[Any, tuple[int, str | None]] = {}

    def add(self, state: Any, sessions: tuple[Session, ...]) -> None:
        """An endpoint, with what is known of it by now."""
        member = self.members[id(state)] = Member(self, state, sessions)
        for session in sessions:
            session.members.append(member)
        member.apply(None)

    def leave(self) -> None:
        """The cluster is not in the plane any more, or is another object there."""
        for member in self.members.values():
            member.leave()

    def has_traffic(self) -> bool:
        """Whether a driver ever reached for the cluster: it then left something in ``shared``."""
        if not self.used:
            state = self.cluster_state
            self.used = bool(state.shared or state.high.shared)
        return self.used

    def note_change(self, state: Any, before: int, why: str | None) -> None:
        """Have the endpoint weighed anew, if its flags are other than ``before``."""
        if state.flags != before:
            self.changes[state] = (self.changes.get(state, (before,))[0], why)

    def publish(self, now: float) -> tuple[list[HealthChanged], list[Any]]:
        """Weigh the endpoints anew, once for all changes. What is to be told, and the
        states that became unhealthy."""
        changes = self.changes
        if not changes:
            return [], []
        self.cluster_state.refresh(now)
        self.changes = {}  # only now: what could not be weighed is tried again
        if any(state.flags & PENDING_DYNAMIC_REMOVAL for state in changes):
            self._forget_dropped()
        told = [(state, was, why) for state, (was, why) in changes.items() if why is not None]
        events = [self._event(s, why) for s, was, why in told if (s.flags ^ was) & ACTIVE_FLAGS]
        failed = [s for s, was, _ in told if s.flags & UNHEALTHY and not was & UNHEALTHY]
        return events, failed

    def _forget_dropped(self) -> None:
        """Endpoints that discovery had dropped, and that the cluster let go when they failed."""
        kept = {id(state) for state in self.cluster_state.states}
        for key in [key for key in self.members if key not in kept]:
            self.members.pop(key).leave()

    def _event(self, state: Any, why: str) -> HealthChanged:
        healthy = not state.flags & ACTIVE_FLAGS
        name = self.cluster_state.cluster.name
        return HealthChanged(name, state.key, healthy, flag_names(state.flags), why)

    def stats(self) -> dict[str, int]:
        """Envoy's counters, and its gauges ``healthy`` and ``degraded``."""
        found = {name: getattr(self.counters, name) for name in Counters.__slots__}
        members = list(self.members.values())
        found["healthy"] = sum(not member.failed for member in members)
        found["degraded"] = sum(
            any(session.check.flags & DEGRADED_ACTIVE_HC for session in member.sessions)
            for member in members
        )
        return found


__all__ = ["Counters", "Member", "Session", "Watched"]
