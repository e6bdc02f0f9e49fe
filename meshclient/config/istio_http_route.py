"""One ``http[]`` entry of a VirtualService, as written.

Reads every field of an entry and checks which may stand together. Matching
callers to it and making model routes of it are done elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.config.istio_actions import (
    Redirect,
    Rewrite,
    read_direct_response,
    read_redirect,
    read_rewrite,
)
from meshclient.config.istio_destination import Destination, read_route_destination
from meshclient.config.istio_fault import read_fault
from meshclient.config.istio_headers import Headers, read_headers
from meshclient.config.istio_match import HttpMatch, read_match
from meshclient.config.istio_mirror import Mirrors, read_mirrors
from meshclient.config.istio_retry import Retries, read_retries
from meshclient.config.reader import Reader
from meshclient.model.routes import DirectResponse, Fault
from meshclient.model.snapshot import Node
from meshclient.model.source import Diagnostic


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """An entry. None marks a block that is absent, which matters to delegates:
    a child's block replaces the parent's as a whole."""

    reader: Reader
    name: str = ""
    matches: tuple[HttpMatch, ...] = ()
    destinations: tuple[Destination, ...] = ()
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    delegate: tuple[str, str] | None = None
    rewrite: Rewrite | None = None
    timeout_s: float | None = None
    retries: Retries | None = None
    fault: Fault | None = None
    mirrors: Mirrors | None = None
    headers: Headers | None = None
    cors: Diagnostic | None = None


def read_http_route(entry: Reader, namespace: str, node: Node) -> HttpRoute:
    """One element of ``http`` in a document of ``namespace``."""
    name = entry.field("name")
    timeout = entry.field("timeout")
    redirect = entry.field("redirect")
    direct = entry.field("directResponse")
    rewrite = entry.field("rewrite")
    retries = entry.field("retries")
    fault = entry.field("fault")
    headers = entry.field("headers")
    cors = entry.field("corsPolicy")
    if cors is not None:
        cors.raw()
    found = HttpRoute(
        reader=entry,
        name=(name.string() or "") if name is not None else "",
        matches=_read_matches(entry),
        destinations=_read_destinations(entry, namespace, node),
        redirect=read_redirect(redirect) if redirect is not None else None,
        direct_response=read_direct_response(direct) if direct is not None else None,
        delegate=_read_delegate(entry, namespace),
        rewrite=read_rewrite(rewrite) if rewrite is not None else None,
        timeout_s=timeout.go_duration(allow_zero=True) if timeout is not None else None,
        retries=read_retries(retries) if retries is not None else None,
        fault=read_fault(fault) if fault is not None else None,
        mirrors=read_mirrors(entry, namespace, node.domain),
        headers=read_headers(headers) if headers is not None else None,
        cors=cors.not_honoured("corsPolicy (it answers browsers)") if cors is not None else None,
    )
    entry.finish("http route")
    _check_action(found)
    _check_weights(found)
    return found


def _read_matches(entry: Reader) -> tuple[HttpMatch, ...]:
    field = entry.field("match")
    return tuple(read_match(element) for element in field.elements()) if field is not None else ()


def _read_destinations(entry: Reader, namespace: str, node: Node) -> tuple[Destination, ...]:
    field = entry.field("route")
    if field is None:
        return ()
    found = (read_route_destination(e, namespace, node.domain) for e in field.elements())
    return tuple(destination for destination in found if destination is not None)


def _read_delegate(entry: Reader, namespace: str) -> tuple[str, str] | None:
    block = entry.field("delegate")
    if block is None:
        return None
    name = block.field("name")
    where = block.field("namespace")
    block.finish("delegate")
    text = name.string() if name is not None else None
    if not text:
        block.error("name is missing", code="required")
        return None
    return (where.string() or namespace) if where is not None else namespace, text


def _check_action(route: HttpRoute) -> None:
    """Istio's validation of the blocks that exclude each other, in its words."""
    has = route.reader.has
    error = route.reader.error
    if has("delegate"):
        if has("route") or has("redirect") or has("directResponse"):
            error("root HTTP route with delegate cannot contain route or redirect", code="delegate")
        return
    if not (has("route") or has("redirect") or has("directResponse")):
        error("HTTP route, redirect or direct_response is required", code="required")
        return
    if not (route.destinations or route.redirect or route.direct_response):
        if not _complained(route):
            error("HTTP route, redirect or direct_response is required", code="required")
        return
    if route.redirect is not None:
        for other in ("route", "fault", "rewrite", "directResponse"):
            if has(other):
                error(f"HTTP route cannot contain both {other} and redirect", code="exclusive")
    if route.direct_response is not None:
        for other in ("route", "fault", "rewrite"):
            if has(other):
                error(
                    f"HTTP route cannot contain both {other} and direct_response", code="exclusive"
                )


def _complained(route: HttpRoute) -> bool:
    """An unreadable ``route`` list has its own errors already."""
    field = route.reader.field("route")
    return field is not None and not (field.is_list and not field.elements())


def _check_weights(route: HttpRoute) -> None:
    destinations = route.destinations
    if len(destinations) > 1 and sum(d.weight for d in destinations) == 0:
        route.reader.error("total destination weight = 0", code="weight")
