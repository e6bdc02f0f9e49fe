"""Priority and fallback as ``explain`` tells them."""

from __future__ import annotations

from typing import Any

import pytest

import meshclient


@pytest.mark.parametrize(
    ("service", "line"),
    [
        ({"priority": "high"}, "priority: high (limits: high_priority)"),
        (
            {"fallback": {"last_good": True, "to": "b", "respond": {"status": 203}}},
            "fallback: the last good answer, up to 300 s old, else b, else status 203; "
            "after local failures, 5xx",
        ),
        (
            {"fallback": {"on": [503, 429], "to": "b"}},
            "fallback: b; after 429, 503",
        ),
        ({"fallback": {"on": ["5xx", 429]}}, "fallback: the program alone; after 5xx, 429"),
    ],
)
def test_a_line_each(service: dict[str, Any], line: str) -> None:
    a = {"endpoints": ["127.0.0.1:1"], **service}
    services = {"a": a, "b": {"endpoints": ["127.0.0.1:2"]}}
    with meshclient.Mesh.from_documents([{"version": 1, "services": services}]) as mesh:
        explanation = mesh.explain("GET", "http://a/")
        assert explanation.beside == [line]
        assert line in str(explanation)
        assert mesh.explain("GET", "http://b/").beside == []
