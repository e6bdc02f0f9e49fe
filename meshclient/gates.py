"""The breakers that a try passes: of its cluster or service, its route, its endpoint.

Asks them in that order, tells them how the try ended, and words the refusal. Decides
nothing: when a breaker opens is :mod:`meshclient.resilience.breaker`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshclient import errors
from meshclient.endings import upstream_body
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason
from meshclient.resilience.classify import classify

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.balancing import EndpointState
    from meshclient.call import Call
    from meshclient.cluster_state import ClusterState
    from meshclient.resilience.breaker import Breaker

    #: A breaker, and the generation under which it admitted the try.
    Gate = tuple[Breaker, int]

#: Picks in the place of an endpoint whose breaker is open, before all are looked at.
REPICKS = 3
#: Clusters up to this size are looked through for an endpoint whose breaker is closed.
MAX_LOOKED_AT = 256


def enter(call: Call, cluster: ClusterState, now: float) -> list[Gate]:
    """Have the cluster's and the route's breaker admit a try. Raises
    :class:`~meshclient.errors.CircuitOpen`, the call's own error from then on."""
    passed: list[Gate] = []
    breaker, route = cluster.breaker, call.route
    if breaker is not None:
        generation = breaker.admit(now)
        if generation < 0:
            raise refusal(call, [breaker], now)
        passed.append((breaker, generation))
    breaker = None if route is None else route.breaker
    if breaker is not None:
        generation = breaker.admit(now)
        if generation < 0:
            give_back(passed, now)
            raise refusal(call, [breaker], now)
        passed.append((breaker, generation))
    return passed


def enter_endpoint(
    call: Call,
    cluster: ClusterState,
    state: EndpointState,
    passed: list[Gate] | None,
    now: float,
) -> tuple[EndpointState, list[Gate]]:
    """``state``, or another endpoint of the cluster whose breaker admits the try.

    Raises :class:`~meshclient.errors.CircuitOpen` when none does.
    """
    refused: list[EndpointState] = []
    for _ in range(REPICKS + 1):
        gate = _admitted(state, now)
        if gate is not None:
            return state, [*(passed or ()), *gate]
        refused.append(state)
        tried = [*refused, *(attempt.state for attempt in call.attempts)]
        other = cluster.balancer.pick_other(call._rand, tried, len(tried), now, call)
        if other is None or other in refused:
            break
        state = other
    for candidate in _eligible(cluster, refused):
        gate = _admitted(candidate, now)
        if gate is not None:
            return candidate, [*(passed or ()), *gate]
        refused.append(candidate)
    give_back(passed, now)
    raise refusal(call, [one.breaker for one in refused if one.breaker is not None], now)


def _admitted(state: EndpointState, now: float) -> list[Gate] | None:
    breaker = state.breaker
    if breaker is None:
        return []
    generation = breaker.admit(now)
    return None if generation < 0 else [(breaker, generation)]


def _eligible(cluster: ClusterState, refused: list[EndpointState]) -> list[EndpointState]:
    """Endpoints that could have been picked; by chance they were not."""
    if len(cluster.states) > MAX_LOOKED_AT:
        return []
    rows = cluster.balancer.candidates()
    return [row.state for row in rows if not row.excluded and row.state not in refused]


def tell(call: Call, attempt: Attempt, outcome: Outcome, now: float) -> None:
    """How the try ended, unless it was the caller who did not wait."""
    entered, attempt.gates = attempt.gates, None
    assert entered is not None
    status = outcome.status
    if 0 < status < 500 and outcome.grpc_status < 0:
        kind = OutcomeKind.SUCCESS
    elif not status and call._caller_gave_up(attempt, outcome, now):
        kind = OutcomeKind.IGNORED
    else:
        kind = classify(outcome, False)
    for breaker, generation in entered:
        breaker.record(generation, kind, outcome, attempt.duration_s, now)


def give_back(passed: list[Gate] | None, now: float) -> None:
    """The try was never made, or its end says nothing."""
    for breaker, generation in passed or ():
        breaker.abandon(generation, now)


def closed_ahead(call: Call, cluster: ClusterState, at: float) -> str:
    """Why a try at the time ``at`` would be refused; empty when it would not."""
    route = call.route
    for breaker in (cluster.breaker, None if route is None else route.breaker):
        if breaker is not None and breaker.refuses(at):
            shown = breaker.describe(at)
            why = shown.get("reason") or "closed meanwhile"
            where = f"  [{shown['document']}]" if shown["document"] else ""
            return f"not repeated: the breaker of {breaker.scope} is {breaker.state} ({why}){where}"
    return ""


def refusal(call: Call, breakers: list[Breaker], now: float) -> errors.CircuitOpen:
    """The error of a call that breakers refuse."""
    shown = [breaker.describe(now) for breaker in breakers]
    first = min(shown, key=lambda one: one["for_s"] if one.get("for_s") is not None else 1e18)
    names = first["breaker"] if len(shown) == 1 else f"all {len(shown)} endpoints"
    until = first.get("for_s")
    when = "until it is closed by hand" if until is None else f"for {until:.1f} s more"
    if first["state"] == "half_open":
        when = "its probes are under way"
    why = (
        f"the breaker of {names} is {first['state']} since {first.get('since_s', 0.0):.1f} s "
        f"({first.get('reason') or 'closed meanwhile'}), {when}"
    )
    if first["document"]:
        why += f"  [{first['document']}]"
    error = call._fail(errors.CircuitOpen, why)
    call.leave(now)
    assert isinstance(error, errors.CircuitOpen)
    error.body = upstream_body(ResetReason.OVERFLOW, 1)
    error.breaker, error.retry_after_s = str(first["breaker"]), until
    return error


__all__ = ["closed_ahead", "enter", "enter_endpoint", "give_back", "refusal", "tell"]
