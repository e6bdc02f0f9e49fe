"""One endpoint as ``explain`` shows it. Shows, never decides."""

from __future__ import annotations

from meshclient.balancing.state import EndpointState
from meshclient.model.health import flag_names


class Candidate:
    """An endpoint, and what its share of the calls follows from, at one moment.

    ``flags``: Envoy's words for its health. ``weight`` as discovered or reported,
    ``effective_weight`` with slow start. ``active``: requests in flight. ``priority_load``:
    percent of all calls that its priority gets for endpoints of its health;
    ``locality_load``: percent of those that its locality gets, None where places do not
    matter. ``panic``: its priority ignores health. ``excluded`` says why it gets no
    traffic; empty: it may be picked.
    """

    __slots__ = (
        "active",
        "effective_weight",
        "excluded",
        "flags",
        "locality",
        "locality_load",
        "panic",
        "priority",
        "priority_load",
        "state",
        "weight",
    )

    def __init__(self, state: EndpointState, excluded: str = "") -> None:
        self.state = state
        self.flags = flag_names(state.flags)
        self.weight = state.weight
        self.effective_weight = float(state.weight)
        self.active = state.active
        self.priority = state.endpoint.priority
        self.locality = str(state.endpoint.locality)
        self.priority_load = 100
        self.locality_load: float | None = None
        self.panic = False
        self.excluded = excluded

    def __repr__(self) -> str:
        why = f" excluded={self.excluded!r}" if self.excluded else ""
        return f"<Candidate {self.state.key} weight={self.weight} active={self.active}{why}>"


__all__ = ["Candidate"]
