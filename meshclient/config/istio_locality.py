"""Localities as Istio and Kubernetes write them.

Text and labels to values; nothing here balances by them.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshclient.model.endpoint import NO_LOCALITY, Locality

_LABEL = "istio-locality"
_REGIONS = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
_ZONES = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
_SUBZONE = "topology.istio.io/subzone"


def parse_locality(text: str) -> Locality:
    """``region/zone/subzone``; trailing parts may be missing."""
    parts = [*text.split("/", 2), "", "", ""][:3]
    return Locality(*parts)


def locality_of_labels(labels: Mapping[str, str]) -> Locality:
    """The ``istio-locality`` label of a workload; dots may stand for slashes."""
    text = labels.get(_LABEL, "")
    if not text:
        return NO_LOCALITY
    return parse_locality(text if "/" in text else text.replace(".", "/"))


def locality_of_topology(labels: Mapping[str, str]) -> Locality:
    """The topology labels of a Kubernetes node (or of an old EndpointSlice)."""
    region = next((labels[key] for key in _REGIONS if key in labels), "")
    zone = next((labels[key] for key in _ZONES if key in labels), "")
    return Locality(region, zone, labels.get(_SUBZONE, ""))
