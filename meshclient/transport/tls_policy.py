"""From a cluster's TLS settings to the context and the server name of its connections.

The only place that knows both a policy's ``tls`` block and the wire's terms. It
opens no connection; whether a cluster may be called at all is the plane's word.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from meshclient.model.cluster import Cluster, TlsSettings
from meshclient.transport.tls_context import RotatingContext
from meshclient.transport.tls_source import FileSource, IdentitySource, IstioFiles

#: Contexts kept; one per distinct settings in the process.
MAX_CONTEXTS = 1024

#: Why a call that is TLS already is refused where the policy wants TLS.
TWICE = (
    "the policy wants TLS towards the endpoint, and the caller dials https: that would be "
    "TLS inside TLS; dial http, and the connection is secured as the policy says"
)

#: What Istio's ALPN filter offers for HTTP/1.1 to a workload of the mesh.
_ISTIO_ALPN: tuple[str, ...] = ("istio-http/1.1", "istio", "http/1.1")
_ISTIO_H2_ALPN: tuple[str, ...] = ("istio-h2", "istio", "h2")
#: Protocols chosen by ALPN that are HTTP/2.
HTTP2_PROTOCOLS = frozenset({"h2", "istio-h2"})
#: Protocols chosen by ALPN that are HTTP/1.1.
HTTP1_PROTOCOLS = frozenset({None, "http/1.1", "istio-http/1.1", "istio"})


def context_for(settings: TlsSettings, *, http2: bool = False) -> RotatingContext:
    """The context of these settings: one object for the whole process.

    ``http2`` offers h2, in a context of its own. The last
    :data:`MAX_CONTEXTS` are remembered. Thread-safe.
    """
    return _context(replace(settings, sni=""), http2)


@lru_cache(maxsize=MAX_CONTEXTS)
def _context(settings: TlsSettings, http2: bool) -> RotatingContext:
    source: IdentitySource
    alpn: tuple[str, ...]
    if settings.mode == "istio_mutual":
        source = IstioFiles(settings.workload_certificates)
        alpn = _ISTIO_H2_ALPN if http2 else _ISTIO_ALPN
    else:
        ca = "" if settings.ca == "system" else settings.ca
        source = FileSource(ca, settings.certificate, settings.key, settings.crl)
        alpn = ("h2", "http/1.1") if http2 else ("http/1.1",)
    return RotatingContext(
        source, settings.expected_names, alpn, verify=not settings.insecure_skip_verify
    )


def context_of(cluster: Cluster) -> RotatingContext:
    """The context of a cluster that has TLS settings, offering what its endpoints speak."""
    assert cluster.policy.tls is not None
    return context_for(cluster.policy.tls, http2=cluster.protocol == "h2")


def prepare(clusters: Iterable[Cluster]) -> None:
    """Load what the clusters need, before a call does: it costs milliseconds."""
    for cluster in clusters:
        tls = cluster.policy.tls
        if tls is not None and tls.mode != "disable" and not tls.credential_name:
            context_of(cluster).problem()


def server_name(cluster: Cluster, settings: TlsSettings, authority: str) -> str:
    """The name asked for by SNI: the policy's, Istio's, or the host of the request.

    An IP address is never sent; it is then what the certificate has to name.
    """
    return fixed_name(cluster, settings) or host_of(authority)


def fixed_name(cluster: Cluster, settings: TlsSettings) -> str:
    """The server name that the policy itself gives; empty: the request's host it is."""
    if settings.sni or settings.mode != "istio_mutual":
        return settings.sni
    return f"outbound_.{cluster.port}_.{cluster.subset}_.{cluster.service}"


def host_of(authority: str) -> str:
    """``authority`` without port and brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0] if authority.count(":") == 1 else authority


def describe(cluster: Cluster, authority: str) -> dict[str, Any]:
    """The TLS terms of a call, for explanations; loads what is not loaded yet."""
    settings = cluster.policy.tls
    if settings is None or settings.mode == "disable":
        return {}
    context = context_of(cluster)
    problem = context.problem()
    name = server_name(cluster, settings, authority)
    terms: dict[str, Any] = {"mode": settings.mode, **_name_terms(settings, name)}
    terms |= context.source.describe()
    if context.not_after is not None:
        terms["certificate_expires"] = context.not_after.isoformat()
    if problem or context.rejected:
        terms["problem"] = problem or f"newer files are not in use: {context.rejected}"
    return terms


def _name_terms(settings: TlsSettings, name: str) -> dict[str, Any]:
    if settings.insecure_skip_verify:
        expected = ["anything: the certificate is not verified"]
    else:
        expected = [str(matcher) for matcher in settings.expected_names] or [name]
    return {"sni": "none" if _is_ip(name) else name, "expected_names": expected}


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
