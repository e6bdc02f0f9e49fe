"""The JSON Schema (2020-12) of the native policy file, from the reader's own tables.

Generates, compares and writes ``meshclient.schema.json``. Validates nothing itself:
that is what editors and :mod:`meshclient.config.native` are for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meshclient.config.native_fields import REQUIRED, SECTIONS
from meshclient.config.native_shapes import SOURCES

FILE = Path(__file__).with_name("meshclient.schema.json")

_DURATION = {
    "type": "string",
    "description": "A duration in whole milliseconds, such as 1.5s, 200ms or 1h30m.",
    "pattern": r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$",
}
#: Sections of which one word of the first tuple must be given (and of the second: at most one).
_EXACTLY_ONE: dict[str, tuple[str, ...]] = {
    "san": ("exact", "prefix", "suffix", "regex"),
    "hash_on": ("header", "cookie", "query", "source_ip", "context"),
    "fault_abort": ("status", "grpc_status"),
    "host_rewrite": ("header", "path_regex", "endpoint"),
}
_AT_MOST_ONE: dict[str, tuple[str, ...]] = {
    "service": SOURCES,
    "match": ("path", "prefix", "segment_prefix", "regex"),
    "rewrite": ("path", "prefix", "regex"),
    "redirect": ("path", "prefix", "regex"),
    "route": ("to", "to_header", "redirect", "respond"),
}
_MATCHERS = ("exact", "prefix", "suffix", "contains", "regex", "present", "range")
_EXACTLY_ONE["matcher"] = _MATCHERS


def generate() -> dict[str, Any]:
    """The whole schema as plain data."""
    definitions = {name: _section(name) for name in SECTIONS if name != "file"}
    definitions["duration"] = dict(_DURATION)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "meshclient policy file",
        **_section("file"),
        "$defs": dict(sorted(definitions.items())),
    }


def _section(name: str) -> dict[str, Any]:
    fields = SECTIONS[name]
    properties = {key: {"description": text, **shape} for key, (shape, text) in fields.items()}
    section: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    if name in REQUIRED:
        section["required"] = list(REQUIRED[name])
    if name in _EXACTLY_ONE:
        section["oneOf"] = [{"required": [key]} for key in _EXACTLY_ONE[name]]
    if name in _AT_MOST_ONE:
        section["allOf"] = _exclusions(_AT_MOST_ONE[name])
    return section


def _exclusions(keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """No two of the keys together; pair by pair, so that editors name the pair."""
    return [
        {"not": {"required": [first, second]}}
        for index, first in enumerate(keys)
        for second in keys[index + 1 :]
    ]


def text() -> str:
    """The schema as it is published, with a newline at the end."""
    return json.dumps(generate(), indent=2, ensure_ascii=False) + "\n"


def write() -> Path:
    """Write the published file; for maintainers."""
    FILE.write_text(text(), encoding="utf-8")
    return FILE
