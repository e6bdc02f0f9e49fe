"""From a route's settings to the filters that its calls enter.

Which settings make which filter, and which state survives an update. What a filter
does is in :mod:`meshclient.resilience`, one module each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from meshclient.model.concurrency import AdaptiveConcurrency, AdmissionControl
from meshclient.model.rate_limit import GlobalRateLimit, LocalRateLimit
from meshclient.model.routes import Fault, Route
from meshclient.resilience.adaptive_concurrency import AdaptiveConcurrencyFilter
from meshclient.resilience.admission_control import AdmissionControlFilter
from meshclient.resilience.fault import FaultFilter
from meshclient.resilience.filter import Filter
from meshclient.resilience.global_rate_limit import GlobalRateLimitFilter
from meshclient.resilience.local_rate_limit import LocalRateLimitFilter
from meshclient.routing import RouteTable

#: What serves each kind of settings.
_MAKERS: dict[type, Callable[[Any], Filter]] = {
    Fault: FaultFilter,
    LocalRateLimit: LocalRateLimitFilter,
    GlobalRateLimit: GlobalRateLimitFilter,
    AdmissionControl: AdmissionControlFilter,
    AdaptiveConcurrency: AdaptiveConcurrencyFilter,
}


class FilterStates:
    """The filters of one plane, by their settings. Built on the control thread.

    Settings that compare equal share one filter, also with the plane before: a token
    bucket must not be full again because a file was saved.
    """

    __slots__ = ("_old", "by_settings")

    def __init__(self, previous: FilterStates | None = None) -> None:
        self._old: dict[Hashable, Filter] = previous.by_settings if previous is not None else {}
        self.by_settings: dict[Hashable, Filter] = {}

    def install(self, table: RouteTable) -> None:
        """Give each route of ``table`` its filters; again is harmless."""
        for host in table.hosts:
            for compiled in host.routes:
                route = compiled.route
                if route.fault is not None or route.filters:
                    compiled.filters = [self._filter(one) for one in _settings(route)]

    def describe(self) -> list[dict[str, Any]]:
        """What each filter does (``filter``) and its statistics, for dumps."""
        made = list(self.by_settings.values())
        return [{"filter": str(one), **one.describe()} for one in made]

    def seal(self) -> None:
        """Nothing more will be installed: forget what only the plane before used."""
        self._old = {}

    def _filter(self, settings: Hashable) -> Filter:
        found = self.by_settings.get(settings)
        if found is None:
            found = self._old.get(settings) or _MAKERS[type(settings)](settings)
            self.by_settings[settings] = found
        return found


def _settings(route: Route) -> Iterator[Hashable]:
    # The fault comes first: what never goes out must not count with the others.
    if route.fault is not None:
        yield route.fault
    yield from route.filters


__all__ = ["FilterStates"]
