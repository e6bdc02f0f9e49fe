"""Query parameters as the route matcher reads them: raw, first occurrence.

Source: Envoy ``common/http/utility.cc`` (``QueryParamsMulti::parseQueryString``).
"""

from __future__ import annotations


def parse_query(path: str) -> dict[str, str]:
    """First value of every parameter, not percent-decoded; ``a`` alone is ``a=``."""
    _, _, query = path.partition("?")
    values: dict[str, str] = {}
    if query:
        for part in query.split("&"):
            name, _, value = part.partition("=")
            values.setdefault(name, value)
    return values
