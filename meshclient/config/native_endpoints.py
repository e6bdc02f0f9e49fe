"""Where the endpoints of a native service come from: Reader to :class:`EndpointSource`.

Addresses, DNS names and registries; exactly one kind per service. Resolves nothing.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Literal

from meshclient.config.native_health import read_endpoint_health
from meshclient.config.native_health_fields import ENDPOINT_STATES
from meshclient.config.native_shapes import SOURCES
from meshclient.config.native_values import (
    finish,
    integer_of,
    locality,
    one_or_many,
    required,
    text_of,
)
from meshclient.config.reader import Reader
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    EndpointSource,
    RegistrySource,
    StaticSource,
    labels_of,
)
from meshclient.model.source import NOT_HONOURED, Diagnostic

_HOST = re.compile(r"(?=.{1,253}\.?\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_MAX_ENDPOINTS = 100_000


@dataclass(frozen=True, slots=True)
class Origin:
    """What a service's endpoints are made of."""

    discovery: EndpointSource
    endpoints: tuple[Endpoint, ...] = ()
    notes: tuple[Diagnostic, ...] = ()


def read_origin(r: Reader, namespace: str) -> Origin | None:
    """The one source that the service names; None when it names none."""
    given = [(name, child) for name in SOURCES if (child := r.field(name)) is not None]
    for name, child in given[1:]:
        child.error(f'give only one of "{given[0][0]}" and "{name}"', code="conflict")
    if not given:
        return None
    name, child = given[0]
    if name == "endpoints":
        return _static(child)
    if name == "dns":
        return Origin(_dns(child))
    if name == "srv":
        return Origin(_srv(child))
    return _registry(name, child, namespace)


def _static(r: Reader) -> Origin:
    found = [e for e in (read_endpoint(item) for item in r.elements()) if e is not None]
    if r.is_list and not r.elements():
        r.warning("no endpoints: every call to this service fails")
    seen: set[tuple[str, int]] = set()
    for item, endpoint in zip(r.elements(), found, strict=False):
        key = (endpoint.address, endpoint.port)
        if key in seen:
            item.warning(f"{endpoint} is listed twice", suggestion="use weight instead")
        seen.add(key)
    return Origin(StaticSource(), tuple(found))


def read_endpoint(r: Reader, *, name_only: bool = False) -> Endpoint | None:
    """``host:port`` or a mapping with ``address``; ``name_only`` refuses unix sockets."""
    if not r.is_mapping:
        return _address(r, name_only)
    address_reader, labels = required(r, "address"), r.field("labels")
    base = _address(address_reader, name_only) if address_reader is not None else None
    details = {
        "labels": labels_of(labels.string_map()) if labels is not None else (),
        "weight": integer_of(r, "weight", 1),
        "priority": integer_of(r, "priority", 0, 0, 127),
        "locality": locality(r.field("locality")),
        "hostname": text_of(r, "hostname"),
    }
    health, state = r.field("health_check"), r.field("health")
    finish(r, "endpoint")
    if state is not None and name_only:
        state.error("belongs to an endpoint; the addresses of a name have no health of their own")
    elif state is not None:
        details["health"] = state.string(ENDPOINT_STATES) or "healthy"
    if base is None:
        return None
    return read_endpoint_health(health, replace(base, **details))  # type: ignore[arg-type]


def _address(r: Reader, name_only: bool) -> Endpoint | None:
    text = r.string()
    if text is None:
        return None
    if text.startswith("unix:"):
        return _unix(r, text, name_only)
    if "://" in text:
        rest = text.split("://", 1)[1].split("/", 1)[0]
        r.error("an address is host:port, not a URL", suggestion=f'write "{rest[:80]}"')
        return None
    host, colon, port_text = text.rpartition(":")
    if not colon or not port_text:
        r.error("the port is missing", suggestion=f'write "{text.rstrip(":")[:80]}:80"')
        return None
    if not (port_text.isascii() and port_text.isdigit()) or not 0 < int(port_text[:6]) <= 65535:
        r.error(f'"{port_text[:20]}" is not a port (1 to 65535)')
        return None
    checked = _host(r, host, port_text)
    return None if checked is None else Endpoint(checked, int(port_text[:6]))


def _unix(r: Reader, text: str, name_only: bool) -> Endpoint | None:
    path = text.removeprefix("unix://") if text.startswith("unix://") else text[len("unix:") :]
    if name_only or not path.startswith("/") or "\0" in path:
        r.error("a unix socket is written unix:///absolute/path")
        return None
    if len(path.encode("utf-8", "replace")) > 107:
        r.error("the path of a unix socket has at most 107 bytes")
        return None
    return Endpoint(f"unix://{path}", 0)


def _host(r: Reader, host: str, port: str) -> str | None:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            r.error(f'"{host[1:-1][:80]}" is not an IPv6 address')
            return None
    if ":" in host:
        hint = f'write "[{host[:60]}]:{port}"'
        r.error("an IPv6 address needs brackets", suggestion=hint)
        return None
    if not is_host(host):
        r.error(f'"{host[:80]}" is not a host name or IP address')
        return None
    return host


def is_host(text: str) -> bool:
    """A host name or IPv4 address; 1.2.3.999 is neither."""
    if re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None


def _dns(r: Reader) -> DnsSource:
    mode: Literal["strict", "logical"] = "strict"
    names: Reader | None = r
    if r.is_mapping:
        mode_reader, names = r.field("mode"), required(r, "names")
        given = mode_reader.string(("strict", "logical")) if mode_reader is not None else None
        mode = "logical" if given == "logical" else "strict"
        finish(r, "dns")
    items = one_or_many(names) if names is not None else []
    targets = [read_endpoint(item, name_only=True) for item in items]
    found = tuple(t for t in targets if t is not None)
    if mode == "logical" and len(found) > 1:
        r.error("mode logical takes one name")
    return DnsSource(found, mode)


def _srv(r: Reader) -> DnsSource:
    name = r.string()
    if name is None:
        return DnsSource((), "srv")
    if ":" in name:
        r.error("an SRV name has no port: the record says it", suggestion="use dns: host:port")
    elif not is_host(name):
        r.error(f'"{name[:80]}" is not a DNS name')
    return DnsSource((Endpoint(name, 0),), "srv")


_REGISTRY_KEYS = {
    "kubernetes": ("service", "namespace", "port"),
    "consul": ("service", "datacenter"),
    "eureka": ("app",),
    "nacos": ("service", "group", "namespace"),
}


def _registry(kind: str, r: Reader, namespace: str) -> Origin:
    """No discovery module serves these yet: said as a warning, for calls will fail."""
    settings: dict[str, str] = {}
    main = _REGISTRY_KEYS[kind][0]
    if kind == "eureka" and not r.is_mapping:
        settings["app"] = r.string() or ""
    else:
        required(r, main)
        for key in _REGISTRY_KEYS[kind]:
            settings[key] = _setting(r, key)
        if kind == "consul" and (tags := r.field("tags")) is not None:
            settings["tags"] = ",".join(tags.strings())
        finish(r, kind)
    if kind == "kubernetes" and not settings.get("namespace"):
        settings["namespace"] = namespace
    message = f"discovery from {kind} is not yet honoured: calls to this service fail"
    found = Diagnostic("warning", NOT_HONOURED, message, r.source, r.path)
    r.sink.append(found)
    given = {key: value for key, value in settings.items() if value}
    return Origin(RegistrySource(kind, labels_of(given)), (), (found,))


def _setting(r: Reader, key: str) -> str:
    child = r.field(key)
    if child is None:
        return ""
    if key == "port" and child.is_number:
        return str(child.integer(1, 65535) or "")
    return text_of(r, key)
