"""The shapes that the tables of the native policy file are made of: JSON Schema fragments.

Data only; reads no document.
"""

from __future__ import annotations

from typing import Any

from meshclient.model.retry import RETRY_ON_GRPC, RETRY_ON_HTTP

Shape = dict[str, Any]
Section = dict[str, tuple[Shape, str]]

TEXT: Shape = {"type": "string"}
NAME: Shape = {"type": "string", "minLength": 1}
FLAG: Shape = {"type": "boolean"}
TEXTS: Shape = {"type": "array", "items": TEXT}
TEXT_MAP: Shape = {"type": "object", "additionalProperties": TEXT}
PORT: Shape = {"type": "integer", "minimum": 1, "maximum": 65535}
PERCENT: Shape = {"type": "number", "minimum": 0, "maximum": 100}
DURATION: Shape = {"$ref": "#/$defs/duration"}
COUNT: Shape = {"type": "integer", "minimum": 1, "maximum": 4294967295}
RING_SIZE: Shape = {"type": "integer", "minimum": 1, "maximum": 8388608}
ATTEMPTS: Shape = {"type": "integer", "minimum": 0, "maximum": 100}
HTTP_STATUS: Shape = {"type": "integer", "minimum": 200, "maximum": 599}

LB_POLICIES = (
    "round_robin",
    "least_request",
    "random",
    "ring_hash",
    "maglev",
    "peak_ewma",
    "pick_first",
    "client_side_weighted_round_robin",
)
HASH_FUNCTIONS = ("xx_hash", "murmur_hash_2")
SOURCES = ("endpoints", "dns", "srv", "kubernetes", "consul", "eureka", "nacos")
OUTLIER_FLAG = "split_external_local_origin_errors"


def ref(section: str) -> Shape:
    """The shape of a whole section."""
    return {"$ref": f"#/$defs/{section}"}


def one_or_many(shape: Shape) -> Shape:
    """One value, or a list of them."""
    return {"anyOf": [shape, {"type": "array", "items": shape}]}


def either(*shapes: Shape) -> Shape:
    """Any of the shapes."""
    return {"anyOf": list(shapes)}


def choice(*names: str) -> Shape:
    """One of some words."""
    return {"enum": list(names)}


def mapping_of(shape: Shape) -> Shape:
    """A mapping with free keys."""
    return {"type": "object", "additionalProperties": shape}


RETRY_ON: Shape = either(
    choice(*sorted(RETRY_ON_HTTP | RETRY_ON_GRPC)),
    {"type": "integer", "minimum": 100, "maximum": 599},
    {"type": "string", "pattern": "^[1-5][0-9][0-9]$"},
)
MATCHER: Shape = either(TEXT, ref("matcher"))
