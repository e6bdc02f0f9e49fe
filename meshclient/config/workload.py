"""The caller's own certificates, put into the TLS settings that ask for them.

ISTIO_MUTUAL names no files: which they are depends on who is calling. Reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshclient.model.cluster import Cluster
from meshclient.model.snapshot import Node


def with_workload_certificates(clusters: Mapping[str, Cluster], node: Node) -> dict[str, Cluster]:
    """``clusters`` with the folder that ``node`` names, where it names one."""
    folder = node.workload_certificates
    return {name: _with(cluster, folder) for name, cluster in clusters.items()}


def _with(cluster: Cluster, folder: str) -> Cluster:
    tls = cluster.policy.tls
    if not folder or tls is None or tls.mode != "istio_mutual":
        return cluster
    policy = replace(cluster.policy, tls=replace(tls, workload_certificates=folder))
    return replace(cluster, policy=policy)
