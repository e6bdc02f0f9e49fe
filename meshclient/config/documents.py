"""One Kubernetes-style document, told apart from its neighbours.

A value only: who reads what out of it is the business of the families
(``istio``, ``kubernetes`` ...).
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.config.reader import Reader


@dataclass(frozen=True, slots=True)
class Document:
    """A document with ``apiVersion`` and ``kind``.

    ``reader`` is its root; its ``source.document`` reads ``VirtualService
    default/reviews``. ``namespace`` is ``metadata.namespace``, else the node's.
    ``name`` may be empty (then an error is already recorded, unless the kind
    needs none). Nothing below the root has been asked for yet.
    """

    reader: Reader
    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"
