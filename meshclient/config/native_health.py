"""Active health checks of the native policy file: Reader to :class:`HealthCheck`.

Knows the rules that Envoy enforces on them; runs nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace

from meshclient.config.native_health_fields import METHODS
from meshclient.config.native_values import (
    finish,
    flag_of,
    header_name,
    integer_of,
    one_or_many,
    required,
    seconds_of,
    text_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.cluster import ClusterPolicy
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import HealthCheck

#: Most checks of one service, and most bytes of a body that are looked at.
MAX_CHECKS = 16
BODY_BYTES = 1024

_KINDS = ("http", "tcp", "grpc")
_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
_BODILESS = ("HEAD",)

Ranges = tuple[tuple[int, int], ...]


def read_health(r: Reader, policy: ClusterPolicy) -> ClusterPolicy:
    """The checks of a service or subset; one that gives any replaces those of its base."""
    single, several = r.field("health_check"), r.field("health_checks")
    if single is not None and several is not None:
        several.error('give only one of "health_check" and "health_checks"', code="conflict")
    elif several is not None or single is not None:
        readers = several.elements() if several is not None else [single]
        found = [_health_check(item) for item in readers if item is not None]
        _check_names(several, found)
        checks = tuple(check for check in found if check is not None)
        policy = replace(policy, health_checks=checks)
    removal, new = "ignore_health_on_host_removal", "ignore_new_hosts_until_first_hc"
    return replace(
        policy,
        ignore_health_on_host_removal=flag_of(r, removal, policy.ignore_health_on_host_removal),
        ignore_new_hosts_until_first_hc=flag_of(r, new, policy.ignore_new_hosts_until_first_hc),
    )


def _check_names(r: Reader | None, checks: list[HealthCheck | None]) -> None:
    """Envoy: several checks of one cluster are told apart by their names."""
    if r is None or len(checks) < 2:
        return
    if len(checks) > MAX_CHECKS:
        r.error(f"at most {MAX_CHECKS} checks")
    seen: set[str] = set()
    for item, check in zip(r.elements(), checks, strict=False):
        if check is None:
            continue
        if not check.name:
            item.error(
                "several checks need names", code="missing-field", suggestion="add name: ..."
            )
        elif check.name in seen:
            item.error(f"a second check named {check.name!a}", code="conflict")
        seen.add(check.name)


def _health_check(r: Reader) -> HealthCheck | None:
    given = [(kind, child) for kind in _KINDS if (child := r.field(kind)) is not None]
    base = _common(r)
    finish(r, "health_check")
    for kind, child in given[1:]:
        child.error(f'give only one of "{given[0][0]}" and "{kind}"', code="conflict")
    if not given:
        if r.is_mapping:
            r.error(
                "how to check is missing",
                code="missing-field",
                suggestion="add http: {path: /healthz}, tcp: {} or grpc: {}",
            )
        return None
    kind, child = given[0]
    if kind == "http":
        return _http(child, base)
    return _tcp(child, base) if kind == "tcp" else _grpc(child, base)


def _common(r: Reader) -> HealthCheck:
    """What all kinds have; the kind itself is put in later."""
    port, percent = r.field("port"), r.field("interval_jitter_percent")
    check = HealthCheck(
        kind="tcp",
        name=text_of(r, "name"),
        port=(port.integer(1, 65535) or 0) if port is not None else 0,
        timeout_s=seconds_of(r, "timeout", 1.0),
        interval_s=seconds_of(r, "interval", 5.0),
        unhealthy_threshold=integer_of(r, "unhealthy_threshold", 3),
        healthy_threshold=integer_of(r, "healthy_threshold", 2),
        reuse_connection=flag_of(r, "reuse_connection", True),
        initial_jitter_s=_zero_or_more(r, "initial_jitter"),
        interval_jitter_s=_zero_or_more(r, "interval_jitter"),
        interval_jitter_percent=(percent.integer(0, 100) or 0) if percent is not None else 0,
        no_traffic_interval_s=seconds_of(r, "no_traffic_interval", 60.0),
        no_traffic_healthy_interval_s=_optional(r, "no_traffic_healthy_interval"),
        unhealthy_interval_s=_optional(r, "unhealthy_interval"),
        unhealthy_edge_interval_s=_optional(r, "unhealthy_edge_interval"),
        healthy_edge_interval_s=_optional(r, "healthy_edge_interval"),
    )
    if check.timeout_s > check.interval_s:
        r.warning(
            f"a check may take longer ({check.timeout_s:g} s) than the interval "
            f"({check.interval_s:g} s)",
            suggestion="the interval begins when a check ends; make timeout the smaller one",
        )
    return check


def _zero_or_more(r: Reader, name: str) -> float:
    child = r.field(name)
    return (child.go_duration(allow_zero=True) or 0.0) if child is not None else 0.0


def _optional(r: Reader, name: str) -> float | None:
    child = r.field(name)
    return child.go_duration() if child is not None else None


def _http(r: Reader, base: HealthCheck) -> HealthCheck:
    if not r.is_mapping:
        return replace(base, kind="http", path=_path(r))
    path, method, receive = r.field("path"), r.field("method"), r.field("receive")
    expected, retriable = r.field("expected_statuses"), r.field("retriable_statuses")
    host = text_of(r, "host")
    check = replace(
        base,
        kind="http",
        path=_path(path) if path is not None else "/",
        method=(method.string(METHODS) or "GET") if method is not None else "GET",
        host=host,
        headers=_headers(r.field("headers")),
        expected_statuses=_statuses(expected) if expected is not None else ((200, 201),),
        retriable_statuses=_statuses(retriable) if retriable is not None else (),
        receive=_many_bytes(receive),
    )
    finish(r, "http_check")
    if receive is not None and check.method in _BODILESS:
        receive.error(f"an answer to {check.method} has no body")
    if receive is not None and sum(map(len, check.receive)) > BODY_BYTES:
        receive.error(f"only the first {BODY_BYTES} bytes of the body are looked at")
    return check


def _path(r: Reader) -> str:
    text = r.string()
    if text is None:
        return "/"
    if not text.startswith("/") or any(c <= " " or c == "\x7f" for c in text):
        r.error("a path begins with / and has no spaces or control characters")
    return wire_text(text)


def _headers(r: Reader | None) -> tuple[tuple[str, str], ...]:
    found = []
    for name, child in r.items() if r is not None else ():
        value = child.string()
        if name.startswith(":") or name.lower() in ("host", "content-length", "transfer-encoding"):
            child.error(f"{name} cannot be set here", suggestion="host: ... names the host")
            continue
        checked = header_name(name, child)
        if value is not None and any(c in value for c in "\r\n\0"):
            child.error("a header value cannot contain line breaks or NUL")
        elif checked is not None and value is not None:
            found.append((checked, wire_text(value)))
    return tuple(found)


def _statuses(r: Reader) -> Ranges:
    """Half-open ranges, as the model has them."""
    found = []
    for item in one_or_many(r):
        if item.is_number:
            status = item.integer(100, 599)
            if status is not None:
                found.append((status, status + 1))
            continue
        text = item.string()
        match = _RANGE.fullmatch(text) if text is not None else None
        if match is not None:
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                item.error(f"no status is in {text}", suggestion=f"{last}-{first}")
            found.append((first, last + 1))
        elif text is not None:
            item.error(
                f"{text[:40]!a} is no status and no range of them",
                suggestion="write 200, or 200-299 (both ends included)",
            )
    if not found and r.is_list and not r.elements():
        r.error("must not be empty")
    return tuple(found)


def _tcp(r: Reader, base: HealthCheck) -> HealthCheck:
    send, receive = r.field("send"), r.field("receive")
    check = replace(
        base,
        kind="tcp",
        send=_bytes(send) if send is not None else b"",
        receive=_many_bytes(receive),
    )
    finish(r, "tcp_check")
    if send is not None and receive is None:
        send.warning("nothing is sent where no answer is expected: the check only connects")
    return check


def _many_bytes(r: Reader | None) -> tuple[bytes, ...]:
    return tuple(_bytes(item) for item in one_or_many(r)) if r is not None else ()


def _bytes(r: Reader) -> bytes:
    """A text, or ``{hex: ...}``."""
    if not r.is_mapping:
        text = r.string()
        if text == "":
            r.error("must not be empty")
        return (text or "").encode("utf-8", "surrogatepass")
    digits = required(r, "hex")
    text = digits.string() if digits is not None else None
    finish(r, "bytes")
    if digits is None or text is None:
        return b""
    if not re.fullmatch(r"([0-9a-fA-F]{2})+", text):
        digits.error("pairs of hexadecimal digits are expected")
        return b""
    return bytes.fromhex(text)


def _grpc(r: Reader, base: HealthCheck) -> HealthCheck:
    if not r.is_mapping:
        return replace(base, kind="grpc", service=r.string() or "")
    check = replace(
        base,
        kind="grpc",
        service=text_of(r, "service_name"),
        host=text_of(r, "authority"),
        headers=_headers(r.field("metadata")),
    )
    finish(r, "grpc_check")
    return check


def read_endpoint_health(r: Reader | None, endpoint: Endpoint) -> Endpoint:
    """``health_check`` of one endpoint: false, or where and as whom it is checked."""
    if r is None:
        return endpoint
    if not r.is_mapping:
        return replace(endpoint, health_check=r.boolean() is not False)
    port, hostname = r.field("port"), text_of(r, "hostname")
    number = (port.integer(1, 65535) or 0) if port is not None else 0
    finish(r, "endpoint_health_check")
    if port is not None and endpoint.address.startswith("unix:"):
        port.error("a unix socket has no port")
    return replace(endpoint, health_check_port=number, health_check_hostname=hostname)


__all__ = ["BODY_BYTES", "MAX_CHECKS", "read_endpoint_health", "read_health"]
