"""Who is calling: what the program says of itself, put over what its documents say.

Only the ``node`` of a configuration is touched here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from meshclient.model.endpoint import Locality, labels_of
from meshclient.model.snapshot import MeshConfig, Node


def as_caller(
    load: Callable[[Node | None], MeshConfig],
    labels: Mapping[str, str] | None,
    locality: str | None,
    workload_certificates: str | os.PathLike[str] | None = None,
) -> Callable[[], MeshConfig]:
    """``load`` under the documents' own ``node`` with what the program says put in.

    What the documents say is known only after reading them, so where the
    program says something else they are read a second time.
    """
    changes: dict[str, Any] = {}
    if labels is not None:
        changes["labels"] = labels_of(dict(labels))
    if locality is not None:
        changes["locality"] = _locality(locality)
    if workload_certificates is not None:
        changes["workload_certificates"] = _folder(workload_certificates)

    def load_as_caller() -> MeshConfig:
        config = load(None)
        node = replace(config.node, **changes)
        return config if node == config.node else load(node)

    return load_as_caller


def _folder(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text:
        raise ValueError("workload_certificates is the path of a folder, not an empty text")
    return text


def _locality(text: str) -> Locality:
    parts = text.split("/")
    if len(parts) > 3:
        raise ValueError(f"locality is region/zone/sub_zone, not {text!r}")
    return Locality(*parts)
