"""Asking an endpoint how it is: what every kind of active check has in common.

Where a check connects, as whom, and when two checks are the same. I/O on the running
asyncio loop; no flags, no thresholds, no schedule.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from meshclient.model.check_result import CheckResult
from meshclient.model.cluster import Cluster, ConnectionOptions
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import AsyncWireResponse, Target, WireError, WireRequest
from meshclient.transport.proxy import parse_proxy
from meshclient.transport.tls import TlsIdentity
from meshclient.transport.tls_policy import context_for, server_name

if TYPE_CHECKING:
    from meshclient.model.endpoint import Endpoint
    from meshclient.model.health import HealthCheck

#: What the checks call themselves.
USER_AGENT: Final = b"meshclient/HC"

TIMED_OUT: Final = "no answer in time"


class Probe(ABC):
    """One check of one endpoint, with the connection it keeps between two runs.

    One task uses it. :meth:`run` never raises but for cancellation; :meth:`aclose` is idempotent.
    """

    __slots__ = ("check", "lost", "problem", "target")

    def __init__(self, check: HealthCheck, target: Target, problem: str = "") -> None:
        self.check = check
        self.target = target
        #: Why nothing may be sent; "" when it may.
        self.problem = problem
        #: Done when an idle connection ends whose end counts as a failure; None: none does.
        self.lost: asyncio.Future[None] | None = None

    async def run(self) -> CheckResult:
        """Ask once; over within ``check.timeout_s``, connecting included."""
        if self.problem:
            return CheckResult("network", self.problem)
        try:
            async with asyncio.timeout(self.check.timeout_s):
                result = await self._ask()
        except TimeoutError:
            result = CheckResult("timeout", TIMED_OUT)
        except WireError as error:
            result = CheckResult("timeout" if error.timeout else "network", str(error))
        except Exception as error:  # a check that cannot be made must not end the checking
            result = CheckResult("network", f"{type(error).__name__}: {error}")
        if result.kind in ("timeout", "network") or not self.check.reuse_connection:
            await self.aclose()
        return result

    @abstractmethod
    async def _ask(self) -> CheckResult:
        """One question and its answer, unbounded; whatever it raises is a result, too."""

    async def aclose(self) -> None:  # noqa: B027 - a probe may have none
        """Give up the connection; the next run opens another."""

    def after_fork_in_child(self) -> None:  # noqa: B027 - a probe may have none
        """The parent's connection is not ours."""


class EngineProbe(Probe):
    """A check that is a request. It has an engine of its own, hence its own connection:
    what calls do to theirs tells nothing, and a connection that hangs is dropped alone."""

    __slots__ = ("_engine",)

    def __init__(self, check: HealthCheck, target: Target, problem: str = "") -> None:
        super().__init__(check, target, problem)
        self._engine: AsyncEngine | None = None

    async def _send(self, request: WireRequest) -> AsyncWireResponse:
        if self._engine is None:
            self._engine = AsyncEngine(max_idle=1)
        return await self._engine.send(self.target, request)

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.aclose()

    def after_fork_in_child(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.after_fork_in_child()


def authority_of(cluster: Cluster, endpoint: Endpoint, check: HealthCheck) -> str:
    """The host that a check names: the endpoint's, the check's, the cluster's."""
    return endpoint.health_check_hostname or check.host or cluster.service or cluster.name


def probe_key(cluster: Cluster, endpoint: Endpoint, check: HealthCheck) -> Hashable:
    """Equal for two endpoints (of two clusters, say) that one check serves."""
    policy, connection = cluster.policy, cluster.policy.connection
    tls = policy.tls
    secured: Hashable = None
    if tls is not None and tls.mode != "disable":
        secured = (tls, server_name(cluster, tls, authority_of(cluster, endpoint, check)))
    return (
        endpoint.address,
        endpoint.more_addresses,
        _port(endpoint, check),
        check,
        authority_of(cluster, endpoint, check) if check.kind != "tcp" else "",
        secured,
        cluster.protocol == "h2",
        policy.proxy,
        (connection.proxy_protocol, connection.keepalive, connection.idle_timeout_s),
    )


def _port(endpoint: Endpoint, check: HealthCheck) -> int:
    return endpoint.health_check_port or check.port or endpoint.port


def make_probe(cluster: Cluster, endpoint: Endpoint, check: HealthCheck, refusal: str) -> Probe:
    """The probe of one check. ``refusal``: why the cluster must not be spoken to, or ""."""
    http2 = check.kind == "grpc" or (check.kind == "http" and cluster.protocol == "h2")
    identity, problem = None, refusal
    if not refusal:
        identity, problem = _identity(cluster, endpoint, check, http2)
    target = _target(cluster, endpoint, check, identity, http2)
    if check.kind == "http":
        from meshclient.transport.health_probe_http import HttpProbe

        return HttpProbe(check, target, authority_of(cluster, endpoint, check), problem)
    if check.kind == "grpc":
        from meshclient.transport.health_probe_grpc import GrpcProbe

        return GrpcProbe(check, target, authority_of(cluster, endpoint, check), problem)
    from meshclient.transport.health_probe_tcp import TcpProbe

    return TcpProbe(check, target, problem)


def _identity(
    cluster: Cluster, endpoint: Endpoint, check: HealthCheck, http2: bool
) -> tuple[TlsIdentity | None, str]:
    tls = cluster.policy.tls
    if tls is None or tls.mode == "disable":
        return None, ""
    try:
        context = context_for(tls, http2=http2)
        name = server_name(cluster, tls, authority_of(cluster, endpoint, check))
    except (OSError, ValueError) as error:  # never in plain text instead
        return None, f"TLS: {error}"
    return TlsIdentity(name, context), ""


def _target(
    cluster: Cluster,
    endpoint: Endpoint,
    check: HealthCheck,
    identity: TlsIdentity | None,
    http2: bool,
) -> Target:
    policy = cluster.policy
    kept = policy.connection
    options = ConnectionOptions(
        connect_timeout_s=check.timeout_s,
        idle_timeout_s=kept.idle_timeout_s,
        keepalive=kept.keepalive,
        proxy_protocol=kept.proxy_protocol,
    )
    is_local = endpoint.address.startswith("unix:")
    return Target(
        endpoint.address,
        endpoint.port if is_local else _port(endpoint, check),
        identity,
        options,
        more_addresses=endpoint.more_addresses,
        proxy=parse_proxy(policy.proxy) if policy.proxy and not is_local else None,
        protocol="h2" if http2 else "http1",
    )


__all__ = ["USER_AGENT", "EngineProbe", "Probe", "authority_of", "make_probe", "probe_key"]
