"""``meshclient schema``: print (or, for maintainers, write) the published JSON Schema."""

from __future__ import annotations

from meshclient.config import schema as native_schema


def run(write: bool) -> int:
    """Always 0."""
    if write:
        print(native_schema.write())
    else:
        print(native_schema.text(), end="")
    return 0
