"""Hedging and mirroring of one request in words, for ``explain``. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshclient.model.hedging import Hedging

if TYPE_CHECKING:
    from meshclient.call import Call
    from meshclient.model.routes import ForwardAction, Mirror


def beside_lines(call: Call, action: ForwardAction) -> list[str]:
    """What goes on beside a call: a line on hedging, where the route has any or the request
    asks for it, and one per mirror."""
    armed = call.hedge is not None and call.hedge.armed
    lines = []
    if armed:
        lines.append(f"hedging: {_when(action.hedging or Hedging(on_per_try_timeout=True))}")
    elif action.hedging is not None:
        lines.append("hedging: not for this request, which may be sent once only")
    return lines + [f"mirror: {_mirror(mirror)}" for mirror in action.mirrors]


def _when(hedging: Hedging) -> str:
    parts = []
    if hedging.delay_s is not None:
        most = hedging.max_hedges
        parts.append(f"another try after {hedging.delay_s * 1000:g} ms, up to {most} of them")
    if hedging.on_per_try_timeout:
        parts.append("a retry at the per-try timeout, which ends no try")
    return "; ".join(parts) or "a retry at the per-try timeout, which ends no try"


def _mirror(mirror: Mirror) -> str:
    share = 100 * mirror.fraction.numerator / mirror.fraction.denominator
    compared = "" if mirror.compare is None else ", answers compared"
    return f"{share:g} % to {mirror.cluster}{compared}"


__all__ = ["beside_lines"]
