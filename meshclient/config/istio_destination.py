"""``destination`` blocks: the host, subset and port that a route names.

Reads one block; whether such a service exists is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.config.istio_headers import NO_HEADERS, Headers, read_headers
from meshclient.config.istio_names import resolve_short_name
from meshclient.config.reader import Reader


@dataclass(frozen=True, slots=True)
class Destination:
    """``host`` is a full name; ``port`` 0 follows the service or the caller."""

    host: str
    subset: str
    port: int
    reader: Reader
    weight: int = 0
    headers: Headers = NO_HEADERS


def read_destination(
    block: Reader, namespace: str, domain: str, weight: int = 0, headers: Headers = NO_HEADERS
) -> Destination:
    """``{host, subset, port: {number}}`` written in a resource of ``namespace``."""
    host = block.field("host")
    subset = block.field("subset")
    port = block.field("port")
    block.finish("destination")
    name = host.string() if host is not None else None
    if host is None or name == "":
        block.error("host is missing", code="required")
    elif name == "*" or (name and name.startswith("*")):
        host.error("a destination cannot be a wildcard", code="host")
    full = resolve_short_name(name or "", namespace, domain) if domain else (name or "")
    text = (subset.string() or "") if subset is not None else ""
    return Destination(full, text, _read_port(port), block, weight, headers)


def _read_port(block: Reader | None) -> int:
    if block is None:
        return 0
    number = block.field("number")
    block.finish("port")
    if number is None:
        return 0
    return number.integer(0, 65535) or 0


def read_route_destination(entry: Reader, namespace: str, domain: str) -> Destination | None:
    """One element of ``http[].route``; None without a destination (reported)."""
    destination = entry.field("destination")
    weight_field = entry.field("weight")
    headers_field = entry.field("headers")
    weight = (weight_field.integer() or 0) if weight_field is not None else 0
    if weight_field is not None and weight < 0:
        weight_field.error(f"weight {weight} < 0", code="weight")
    headers = read_headers(headers_field) if headers_field is not None else NO_HEADERS
    entry.finish("route")
    if destination is None:
        if entry.is_mapping:
            entry.error("destination is missing", code="required")
        return None
    return read_destination(destination, namespace, domain, weight, headers)
