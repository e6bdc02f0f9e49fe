"""Which VirtualServices a caller obeys, and in which order.

Source of the rules: Istio ``push_context.VirtualServicesForGateway`` and
``sidecar.go computeWildcardHostVirtualServiceIndex``.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshclient.config.istio_names import most_specific
from meshclient.config.istio_virtual_service import VirtualService
from meshclient.model.snapshot import Node


def candidates(services: Iterable[VirtualService], node: Node) -> list[VirtualService]:
    """Mesh rules that the caller's namespace sees: private ones of its own
    namespace, then those exported to it by name, then public ones; by age each."""
    private: list[VirtualService] = []
    named: list[VirtualService] = []
    public: list[VirtualService] = []
    for service in sorted(services, key=lambda s: s.metadata.order):
        if service.is_delegate or not service.in_mesh:
            continue
        if service.visibility.public:
            public.append(service)
        elif service.visibility.visible_to(node.namespace):
            own = service.metadata.namespace == node.namespace
            (private if own else named).append(service)
    return private + named + public


class HostIndex:
    """The VirtualService with the most specific host for each service.

    Only wildcard hosts are bound by it; an exact host speaks for itself.
    """

    def __init__(self, services: Iterable[VirtualService]) -> None:
        self._table: dict[str, VirtualService] = {}
        for service in services:
            for host in service.hosts:
                self._table.setdefault(host, service)

    def governs(self, service: VirtualService, host: str) -> bool:
        """Whether ``service`` is the one for the registry's ``host``."""
        found = most_specific(host, self._table)
        return found is not None and found[1] is service
