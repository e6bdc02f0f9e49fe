"""``connectionPool`` and ``retryBudget`` blocks of DestinationRules.

Reads and checks; connections and limits are kept elsewhere. In all integers 0
means "not set", as Istio treats it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meshclient.config.reader import Reader
from meshclient.model.cluster import UNLIMITED, ConnectionOptions, Limits, TcpKeepalive
from meshclient.model.retry import RetryBudget
from meshclient.model.source import Diagnostic

#: Fields of ``outlierDetection`` that many tutorials put under ``http``.
_MISPLACED = (
    "baseEjectionTime",
    "consecutive5xxErrors",
    "consecutiveErrors",
    "consecutiveGatewayErrors",
    "interval",
    "maxEjectionPercent",
    "minHealthPercent",
)


_CONNECTION = ConnectionOptions()
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ConnectionPoolBlock:
    """What the block says about connections and limits."""

    connection: ConnectionOptions = _CONNECTION
    limits: Limits = _LIMITS
    notes: tuple[Diagnostic, ...] = ()
    #: HTTP/2 to ports that are declared as http.
    h2_upgrade: bool = False


def read_connection_pool(block: Reader) -> ConnectionPoolBlock:
    """One ``connectionPool`` block."""
    tcp = block.field("tcp")
    http = block.field("http")
    block.finish("connectionPool")
    if tcp is None and http is None:
        block.error("connection pool must have at least one field", code="required")
    pool = ConnectionPoolBlock()
    if tcp is not None:
        pool = _read_tcp(tcp, pool)
    if http is not None:
        pool = _read_http(http, pool)
    return pool


def _count(block: Reader, name: str) -> int | None:
    """A limit; None when absent or 0."""
    field = block.field(name)
    return (field.integer(0, 2**31 - 1) or None) if field is not None else None


def _duration(block: Reader, name: str) -> float | None:
    field = block.field(name)
    return field.go_duration() if field is not None else None


def _read_tcp(block: Reader, pool: ConnectionPoolBlock) -> ConnectionPoolBlock:
    connection, limits = pool.connection, pool.limits
    maximum = _count(block, "maxConnections")
    if maximum is not None:
        limits = replace(limits, max_connections=maximum, source=block.source)
    connect = _duration(block, "connectTimeout")
    idle = _duration(block, "idleTimeout")
    keepalive = block.field("tcpKeepalive")
    connection = replace(
        connection,
        connect_timeout_s=connection.connect_timeout_s if connect is None else connect,
        idle_timeout_s=connection.idle_timeout_s if idle is None else idle,
        max_duration_s=_duration(block, "maxConnectionDuration"),
        keepalive=_read_keepalive(keepalive) if keepalive is not None else None,
    )
    block.finish("tcp")
    return ConnectionPoolBlock(connection, limits, pool.notes)


def _read_keepalive(block: Reader) -> TcpKeepalive:
    found = TcpKeepalive(
        _count(block, "probes"), _duration(block, "time"), _duration(block, "interval")
    )
    block.finish("tcpKeepalive")
    return found


def _read_http(block: Reader, pool: ConnectionPoolBlock) -> ConnectionPoolBlock:
    idle = _duration(block, "idleTimeout")
    connection = replace(
        pool.connection,
        max_requests=_count(block, "maxRequestsPerConnection") or 0,
        max_concurrent_streams=_count(block, "maxConcurrentStreams") or 0,
        idle_timeout_s=pool.connection.idle_timeout_s if idle is None else idle,
    )
    # http2MaxRequests bounds HTTP/1.1, too: both readers of it mean max_requests.
    limits = replace(
        pool.limits,
        max_pending_requests=_limit(block, "http1MaxPendingRequests"),
        max_requests=_limit(block, "http2MaxRequests"),
        max_retries=_limit(block, "maxRetries"),
        source=block.source,
    )
    connection = _read_keep_alive(block, connection)
    upgrade = block.field("h2UpgradePolicy")
    word = upgrade.string(_UPGRADES) if upgrade is not None else None
    notes = (*pool.notes, *_read_http2(block))
    _warn_misplaced(block)
    block.finish("connectionPool.http")
    return ConnectionPoolBlock(connection, limits, notes, word == "UPGRADE")


_UPGRADES = ("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE")


def _read_keep_alive(block: Reader, connection: ConnectionOptions) -> ConnectionOptions:
    """``http2KeepAlive: {interval, timeout}``."""
    keepalive = block.field("http2KeepAlive", "http2Keepalive")
    if keepalive is None:
        return connection
    interval, timeout = _duration(keepalive, "interval"), _duration(keepalive, "timeout")
    keepalive.finish("http2KeepAlive")
    return replace(
        connection,
        ping_interval_s=interval,
        ping_timeout_s=connection.ping_timeout_s if timeout is None else timeout,
    )


def _limit(block: Reader, name: str) -> int:
    count = _count(block, name)
    return UNLIMITED if count is None else count


def _read_http2(block: Reader) -> list[Diagnostic]:
    """Settings that only HTTP/2 connections know."""
    notes: list[Diagnostic] = []
    client = block.field("useClientProtocol")
    if client is not None and client.boolean():
        notes.append(client.not_honoured("useClientProtocol"))
    return notes


def _warn_misplaced(block: Reader) -> None:
    for name in _MISPLACED:
        if block.has(name):
            field = block.field(name) or block
            field.warning(
                f"{name} is no field of connectionPool.http; it is ignored, as in a cluster",
                code="misplaced-outlier-field",
                suggestion="move it to outlierDetection",
            )


def read_retry_budget(block: Reader) -> RetryBudget:
    """``retryBudget: {percent, minRetryConcurrency, budgetInterval}``."""
    percent_field = block.field("percent")
    minimum_field = block.field("minRetryConcurrency")
    interval_field = block.field("budgetInterval")
    block.finish("retryBudget")
    percent = percent_field.number(0, 100) if percent_field is not None else None
    minimum = minimum_field.integer(0) if minimum_field is not None else None
    interval = interval_field.go_duration(allow_zero=True) if interval_field is not None else None
    return RetryBudget(
        percent=20.0 if percent is None else percent,
        min_concurrency=3 if minimum is None else minimum,
        interval_s=interval or 0.0,
    )
