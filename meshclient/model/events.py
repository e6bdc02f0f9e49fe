"""What ``mesh.subscribe`` delivers: typed, immutable, safe to keep."""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.model.source import Diagnostic


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. Delivered in order, on one background thread."""


@dataclass(frozen=True, slots=True)
class ConfigApplied(Event):
    """A snapshot made from new documents is in force."""

    version: int
    files: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRejected(Event):
    """Documents were refused; the last good snapshot (``version``) stays."""

    version: int
    diagnostics: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class EndpointsChanged(Event):
    """Discovery moved the endpoints of a cluster (texts are ``address:port``)."""

    version: int
    cluster: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiscoveryFailed(Event):
    """A source stopped answering; its last good endpoints, if any, stay in use."""

    source: str
    error: str


@dataclass(frozen=True, slots=True)
class DiscoveryRecovered(Event):
    """A failing source answers again."""

    source: str
