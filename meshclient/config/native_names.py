"""The names that native routes may point to: services and their subsets.

Collected from all native documents before any route is read, so that the order
of documents does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshclient.config.native_shapes import SOURCES
from meshclient.config.reader import Reader
from meshclient.config.suggest import closest
from meshclient.model.source import Source


@dataclass(slots=True)
class Names:
    """Service -> where it stands; service -> its subsets; services with endpoints."""

    services: dict[str, Source] = field(default_factory=dict)
    subsets: dict[str, set[str]] = field(default_factory=dict)
    with_endpoints: set[str] = field(default_factory=set)
    speak_h2: set[str] = field(default_factory=set)

    def add(self, services: Reader) -> None:
        """Take the names of one document; a service named twice is an error."""
        for name, service in services.items():
            first = self.services.get(name)
            if first is not None:
                service.error(f"service {name} is already given at {first}", code="duplicate")
                continue
            self.services[name] = services.key_source(name)
            if not service.is_mapping:
                continue
            subsets = service.field("subsets")
            listed = subsets.node.value if subsets is not None and subsets.is_mapping else ()
            self.subsets[name] = set(listed)
            if any(service.field(source) is not None for source in SOURCES):
                self.with_endpoints.add(name)
            protocol = service.field("protocol")
            if protocol is not None and protocol.node.value == "h2":
                self.speak_h2.add(name)

    def cluster(self, text: str, service: str, at: Reader) -> str | None:
        """The cluster that ``text`` means in a route of ``service``; else an error.

        A subset of the service itself comes first, then a service, then
        ``service/subset``.
        """
        if text in self.subsets.get(service, ()):
            return f"{service}/{text}"
        owner, slash, subset = text.partition("/")
        if owner not in self.services:
            self._unknown(text, service, at)
            return None
        if owner not in self.with_endpoints:
            at.error(f"service {owner} has no endpoints of its own", code="unknown-reference")
            return None
        if slash and subset not in self.subsets.get(owner, ()):
            known = sorted(self.subsets.get(owner, ()))
            hint = f"subsets of {owner}: {', '.join(known)[:200]}" if known else ""
            message = f'service {owner} has no subset "{subset[:80]}"'
            at.error(message, code="unknown-reference", suggestion=hint)
            return None
        return text

    def _unknown(self, text: str, service: str, at: Reader) -> None:
        known = [*sorted(self.subsets.get(service, ())), *self.services]
        meant = closest(text, known)
        hint = f'did you mean "{meant}"?' if meant else f"known: {', '.join(known)[:200]}"
        message = f'"{text[:80]}" is neither a subset of {service} nor a service of this file'
        at.error(message, code="unknown-reference", suggestion=hint)
