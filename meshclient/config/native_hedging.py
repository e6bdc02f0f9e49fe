"""``hedging`` and ``mirror`` of a native service or route.

Reader to model values. Nothing is sent, and no try is judged here.
"""

from __future__ import annotations

from meshclient.config.native_names import Names
from meshclient.config.native_values import (
    finish,
    flag_of,
    fraction_of,
    header_name,
    limit_of,
    required,
)
from meshclient.config.reader import Reader
from meshclient.model.hedging import Comparison, Hedging
from meshclient.model.routes import Mirror


def read_hedging(r: Reader) -> Hedging | None:
    """None: neither a delay nor the per-try timeout starts another try."""
    delay_s = limit_of(r, "delay", None)
    on_timeout = flag_of(r, "on_per_try_timeout")
    most = r.field("max_hedges")
    count = (most.integer(1, 100) or 1) if most is not None else 1
    finish(r, "hedging")
    if most is not None and delay_s is None:
        most.error("max_hedges counts the tries that the delay starts", suggestion="add delay")
    if delay_s is None and not on_timeout:
        return None
    return Hedging(delay_s, on_timeout, count)


def read_mirror(r: Reader, names: Names, service: str) -> Mirror | None:
    """One mirror; None after an error."""
    to = required(r, "to")
    share = fraction_of(r, "percentage")
    suffix = flag_of(r, "shadow_host_suffix")
    compared = r.field("compare")
    comparison = _comparison(compared) if compared is not None else None
    finish(r, "mirror")
    text = to.string() if to is not None else None
    if to is None or text is None:
        return None
    cluster = names.cluster(text, service, to)
    return None if cluster is None else Mirror(cluster, share, suffix, comparison)


def _comparison(r: Reader) -> Comparison:
    listed = r.field("headers")
    headers = []
    for item in listed.elements() if listed is not None else []:
        text = item.string()
        name = header_name(text, item) if text is not None else None
        if name is not None:
            headers.append(name)
    comparison = Comparison(flag_of(r, "status", True), tuple(headers), flag_of(r, "json"))
    finish(r, "mirror_compare")
    if not (comparison.status or comparison.headers or comparison.json):
        r.error("nothing is compared", suggestion="status: true")
    return comparison


__all__ = ["read_hedging", "read_mirror"]
