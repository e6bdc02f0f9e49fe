"""DestinationRule documents, as written.

Reads and checks a document; which rule applies to which service is decided in
:mod:`meshclient.config.istio_rules`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshclient.config.documents import Document
from meshclient.config.istio_metadata import Metadata, read_metadata, read_spec
from meshclient.config.istio_names import resolve_short_name
from meshclient.config.istio_traffic_policy import TrafficPolicy, read_traffic_policy
from meshclient.config.istio_visibility import Visibility, read_export_to
from meshclient.config.reader import Reader
from meshclient.model.endpoint import Labels, labels_of
from meshclient.model.snapshot import Node

_DNS_LABEL = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?")


@dataclass(frozen=True, slots=True)
class Subset:
    """A named part of a service; empty labels mean all endpoints."""

    name: str
    labels: Labels
    policy: TrafficPolicy | None
    reader: Reader


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """A document, or several that were merged (``documents`` names all)."""

    metadata: Metadata
    reader: Reader
    host: str
    policy: TrafficPolicy | None
    subsets: tuple[Subset, ...]
    visibility: Visibility
    selector: Labels | None = None
    documents: tuple[Metadata, ...] = ()

    def subset(self, name: str) -> Subset | None:
        """The subset of that name."""
        return next((s for s in self.subsets if s.name == name), None)

    def __str__(self) -> str:
        return f"DestinationRule {self.metadata}"


def read_destination_rule(document: Document, node: Node) -> DestinationRule | None:
    """The document, or None when it cannot be used (already reported)."""
    metadata = read_metadata(document)
    spec = read_spec(document)
    if spec is None:
        return None
    host_field = spec.field("host")
    host = host_field.string() if host_field is not None else None
    policy = spec.field("trafficPolicy")
    selector = _read_selector(spec)
    found = DestinationRule(
        metadata,
        document.reader,
        resolve_short_name(host or "", document.namespace, node.domain),
        read_traffic_policy(policy, has_selector=selector is not None)
        if policy is not None
        else None,
        _read_subsets(spec, has_selector=selector is not None),
        read_export_to(spec, document.namespace),
        selector,
        (metadata,),
    )
    _check_selector_export(spec, found, document.namespace)
    spec.finish("DestinationRule")
    if not host:
        if host_field is None or host == "":
            spec.error("host is missing", code="required")
        return None
    return found


def _read_selector(spec: Reader) -> Labels | None:
    block = spec.field("workloadSelector")
    if block is None:
        return None
    labels = block.field("matchLabels")
    block.finish("workloadSelector")
    return labels_of(labels.string_map()) if labels is not None else ()


def _check_selector_export(spec: Reader, rule: DestinationRule, namespace: str) -> None:
    export = spec.field("exportTo")
    if rule.selector is None or export is None:
        return
    if rule.visibility.public or rule.visibility.namespaces - {namespace}:
        export.error(
            "a rule with a workloadSelector cannot be exported beyond its own namespace",
            code="export-to",
        )


def _read_subsets(spec: Reader, *, has_selector: bool) -> tuple[Subset, ...]:
    field = spec.field("subsets")
    found: dict[str, Subset] = {}
    for element in field.elements() if field is not None else ():
        subset = _read_subset(element, has_selector=has_selector)
        if subset is None:
            continue
        if subset.name in found:
            element.error(f'duplicate subset names: "{subset.name}"', code="duplicate")
        found.setdefault(subset.name, subset)
    return tuple(found.values())


def _read_subset(element: Reader, *, has_selector: bool) -> Subset | None:
    name_field = element.field("name")
    labels_field = element.field("labels")
    policy_field = element.field("trafficPolicy")
    name = name_field.string() if name_field is not None else None
    labels = labels_of(labels_field.string_map()) if labels_field is not None else ()
    policy = (
        read_traffic_policy(policy_field, has_selector=has_selector)
        if policy_field is not None
        else None
    )
    element.finish("subsets")
    if not name or name_field is None:
        if element.is_mapping:
            element.error("name is missing", code="required")
        return None
    if not _DNS_LABEL.fullmatch(name):
        name_field.error(f'subset name "{name}" must be a DNS label', code="subset-name")
    if not labels:
        element.warning("a subset without labels holds all endpoints of the host", code="KIA0209")
    return Subset(name, labels, policy, element)
