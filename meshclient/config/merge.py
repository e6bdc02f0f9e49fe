"""Native and Kubernetes-style route tables to one, port by port.

A port with a table of its own never falls back to the any-port table, so every
table receives what holds for any port. The same host name from both: the
native file wins, with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshclient.config.reader import Diagnostics
from meshclient.model.routes import RouteConfiguration, VirtualHost
from meshclient.model.snapshot import ANY_PORT
from meshclient.model.source import Diagnostic

Tables = Mapping[int, RouteConfiguration]


def merge_routes(own: Tables, other: Tables, sink: Diagnostics) -> dict[int, RouteConfiguration]:
    """One table per port that either side names; ``own`` is the native side."""
    merged: dict[int, RouteConfiguration] = {}
    for port in sorted({*own, *other}):
        ours = own.get(port) or own.get(ANY_PORT)
        theirs = other.get(port) or other.get(ANY_PORT)
        if ours is None or theirs is None:
            table = ours or theirs
            if table is not None:
                merged[port] = table
            continue
        taken = {d: host for host in ours.virtual_hosts for d in host.domains}
        rest = [_without(host, taken, sink) for host in theirs.virtual_hosts]
        kept = (host for host in rest if host.domains)
        merged[port] = replace(theirs, virtual_hosts=(*ours.virtual_hosts, *kept))
    return merged


def _without(host: VirtualHost, taken: Mapping[str, VirtualHost], sink: Diagnostics) -> VirtualHost:
    shared = [domain for domain in host.domains if domain in taken]
    if not shared:
        return host
    winner = taken[shared[0]]
    text = f'the host "{shared[0]}" is also native service {winner.name}; the native one is used'
    hint = f"see {winner.source}"
    sink.append(Diagnostic("warning", "shadowed", text, host.source, "", hint))
    return replace(host, domains=tuple(d for d in host.domains if d not in taken))
