"""CLIENT_SIDE_WEIGHTED_ROUND_ROBIN: weights that the servers' own load reports make.

Reports are taken in on any thread, at the response; what follows from them is computed on
the control thread once per update period, never in a call. How the weights are scheduled
is weighted round robin's business.
Source: Envoy ``load_balancing_policies/common/orca_weight_manager.cc``; gRPC A58.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from meshclient.balancing.base import Balancer
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.orca import LoadReport, Malformed, read_report
from meshclient.balancing.round_robin import WeightedRoundRobin
from meshclient.balancing.slow_start import SlowStart
from meshclient.balancing.state import EndpointState
from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.load_balancing import OrcaWeights as Settings
from meshclient.model.outcome import Outcome

_MOST = 2**32 - 1


class ReportedWeight:
    """What one endpoint's reports made of its weight; lives on ``EndpointState.load``.

    ``since`` is when usable reports began to come (None: none yet, or too long ago),
    ``at`` when the last one came. ``malformed`` counts reports that could not be read.
    Every attribute is one reference, written whole: no lock.
    """

    __slots__ = ("at", "malformed", "since", "weight")

    def __init__(self) -> None:
        self.weight = 1
        self.since: float | None = None
        self.at = 0.0
        self.malformed = 0

    def take(self, weight: int, now: float) -> None:
        """A usable report came."""
        self.weight = weight
        self.at = now
        if self.since is None:
            self.since = now

    def valid(self, settings: Settings, now: float) -> int | None:
        """The weight, if reports came for at least the blackout period and the last one
        is not older than the expiration period. Control thread only: after too long a
        silence, the blackout period begins anew."""
        since = self.since
        if since is None or now - settings.blackout_period_s < since:
            return None
        if self.at < now - settings.weight_expiration_period_s:
            self.since = None
            return None
        return self.weight

    def describe(self, now: float) -> dict[str, float | None]:
        """Plain values: the weight last reported, seconds since (None: no report that
        counts), and how many reports could not be read."""
        silent_s = None if self.since is None else round(now - self.at, 3)
        weight = None if self.since is None else self.weight
        return {"weight": weight, "age_s": silent_s, "malformed": self.malformed}

    def __repr__(self) -> str:
        return f"<ReportedWeight {self.weight} since={self.since} at={self.at}>"


def weight_of(report: LoadReport, settings: Settings) -> int | None:
    """rps / (utilization + penalty x errors per second / rps), at most 2**32 - 1.

    None: the report says too little (no requests, no utilization). Utilization is the
    largest of the metrics that ``settings`` names, else the application's, else the CPU's.
    """
    rps = report.rps_fractional
    if rps <= 0.0:
        return None
    utilization = report.largest(settings.metric_names)
    if utilization <= 0.0:
        utilization = report.application_utilization
    if utilization <= 0.0:
        utilization = report.cpu_utilization
    utilization += settings.error_utilization_penalty * report.eps / rps
    if utilization <= 0.0:
        return None
    # In this order: a tiny utilization may make the quotient infinite.
    return int(min(rps / utilization, _MOST))


def take_report(state: EndpointState, headers: HeaderMap, settings: Settings, now: float) -> None:
    """Note the report in ``headers`` (of a response, or its trailers), if there is one.

    A malformed one is counted and has no effect. Any thread.
    """
    load = state.load
    if type(load) is not ReportedWeight:
        load = state.load = ReportedWeight()
    try:
        report = read_report(headers)
    except Malformed:
        load.malformed += 1
        return
    if report is not None and (weight := weight_of(report, settings)) is not None:
        load.take(weight, now)


def reweigh(states: Sequence[EndpointState], settings: Settings, now: float) -> None:
    """Give every endpoint the weight its reports make. Control thread only.

    One without a valid weight gets the median of its priority's valid ones (of an even
    number: the mean of the middle two, rounded down); 1 where there is none.
    """
    priorities: dict[int, list[EndpointState]] = {}
    for state in states:
        if type(state.load) is not ReportedWeight:
            state.load = ReportedWeight()
        priorities.setdefault(state.endpoint.priority, []).append(state)
    for group in priorities.values():
        _reweigh_priority(group, settings, now)


def _reweigh_priority(states: list[EndpointState], settings: Settings, now: float) -> None:
    weights = [(state, state.load.valid(settings, now)) for state in states]
    default = _median(sorted(weight for _, weight in weights if weight is not None))
    for state, weight in weights:
        state.weight = max(1, default if weight is None else weight)


def _median(weights: list[int]) -> int:
    if not weights:
        return 1
    middle = len(weights) // 2
    if len(weights) % 2:
        return weights[middle]
    return (weights[middle - 1] + weights[middle]) // 2


class ClientSideWeighted(WeightedRoundRobin):
    """Weighted round robin over the weights as they are now.

    To be made again at ``refresh_at``, after :func:`reweigh`; where no weight changed,
    the schedule goes on where it was.
    """

    __slots__ = ("_settings",)
    policy = "client_side_weighted_round_robin"

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        seed: int,
        settings: Settings,
        now: float = 0.0,
        previous: Balancer | None = None,
        slow_start: SlowStart | None = None,
    ) -> None:
        super().__init__(eligibility, turns, seed, previous, slow_start)
        self._settings = settings
        update_at = now + settings.weight_update_period_s
        self.refresh_at = update_at if self.refresh_at is None else min(self.refresh_at, update_at)

    def on_outcome(
        self,
        state: EndpointState,
        outcome: Outcome,
        started: float,  # noqa: ARG002
        now: float,
    ) -> None:
        """Take in the report of a response head. Any thread."""
        if outcome.headers is not None:
            take_report(state, outcome.headers, self._settings, now)

    def on_trailers(
        self, state: EndpointState, headers: RawHeaders, trailers: RawHeaders, now: float
    ) -> None:
        """Take in the report of trailers, unless one has come with the head. Any thread."""
        with suppress(Malformed):
            if read_report(HeaderMap(headers)) is not None:
                return
        take_report(state, HeaderMap(trailers), self._settings, now)


__all__ = ["ClientSideWeighted", "ReportedWeight", "reweigh", "take_report", "weight_of"]
