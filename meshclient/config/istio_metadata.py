"""``metadata`` and the outer frame of every document of these families.

What stands inside ``spec`` is read by the module of its kind, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshclient.config.documents import Document
from meshclient.config.reader import Reader
from meshclient.model.source import Source


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who a document is. ``order`` sorts as Istio does: age, name, namespace.

    A file rarely has a ``creationTimestamp``; without one the document counts
    as oldest, so that usually name and namespace decide.
    """

    name: str
    namespace: str
    source: Source
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def order(self) -> tuple[str, str, str]:
        return (self.created, self.name, self.namespace)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def read_metadata(document: Document) -> Metadata:
    """Labels, annotations and age; other metadata is Kubernetes' own business."""
    root = document.reader
    meta = root.field("metadata")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created = ""
    if meta is not None and meta.is_mapping:
        labels = _string_map(meta, "labels")
        annotations = _string_map(meta, "annotations")
        stamp = meta.field("creationTimestamp")
        created = str(stamp.raw()) if stamp is not None and stamp.is_scalar else ""
    return Metadata(document.name, document.namespace, root.source, labels, annotations, created)


def _string_map(parent: Reader, name: str) -> dict[str, str]:
    child = parent.field(name)
    return child.string_map() if child is not None else {}


def read_spec(document: Document, *also_known: str) -> Reader | None:
    """The ``spec``, after checking that nothing unknown stands beside it."""
    root = document.reader
    root.ignore("apiVersion", "kind", "metadata", "status", *also_known)
    spec = root.field("spec")
    root.finish(document.kind)
    if spec is None:
        root.error("spec is missing", code="required")
    elif not spec.is_mapping:
        spec.items()
        spec.error("expected a mapping", code="type")
        return None
    return spec
