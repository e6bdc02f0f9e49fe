"""``tls`` and ``tcp`` rules of a VirtualService: checked, and then left alone.

They speak of connections, which an HTTP client does not route; nothing of
them reaches a snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshclient.config.istio_destination import read_destination
from meshclient.config.istio_names import subset_of
from meshclient.config.reader import Reader

_MATCH_FIELDS = ("destinationSubnets", "port", "sourceLabels", "gateways", "sourceNamespace")


def read_tls_routes(rules: Reader, hosts: Sequence[str]) -> int:
    """Check the ``tls`` list; the number of rules."""
    entries = rules.elements()
    for entry in entries:
        match = entry.field("match")
        if match is None:
            entry.error("TLS match must have at least one SNI host", code="required")
        for element in match.elements() if match is not None else ():
            _check_sni(element, hosts)
        _read_routes(entry)
    return len(entries)


def _check_sni(match: Reader, hosts: Sequence[str]) -> None:
    field = match.field("sniHosts")
    names = field.strings() if field is not None else []
    if not names:
        match.error("TLS match must have at least one SNI host", code="required")
    for name in names:
        if hosts and not any(subset_of(name.lower(), host) for host in hosts):
            match.error(
                f'SNI host "{name}" is not a compatible subset of any of the virtual '
                f"service hosts: {', '.join(hosts)}",
                code="sni-host",
            )
    _read_match(match)


def read_tcp_routes(rules: Reader) -> int:
    """Check the ``tcp`` list; the number of rules."""
    entries = rules.elements()
    for entry in entries:
        match = entry.field("match")
        for element in match.elements() if match is not None else ():
            element.ignore("sourceSubnet")
            _read_match(element)
        _read_routes(entry)
    return len(entries)


def _read_match(match: Reader) -> None:
    port = match.field("port")
    if port is not None:
        port.integer(0, 65535)
    match.ignore(*_MATCH_FIELDS)
    match.finish("match")


def _read_routes(entry: Reader) -> None:
    routes = entry.field("route")
    elements = routes.elements() if routes is not None else []
    for element in elements:
        destination = element.field("destination")
        weight = element.field("weight")
        if destination is None:
            element.error("destination is missing", code="required")
        else:
            read_destination(destination, "", "")
        if weight is not None:
            weight.integer(0, 2**31 - 1)
        element.finish("route")
    if not elements:
        entry.error("route is missing", code="required")
    entry.finish("rule")
