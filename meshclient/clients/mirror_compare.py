"""Whether a mirror answers as the real service does.

Compares two answers, as values; sends and waits for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.hedging import Comparison

#: Largest body that is compared (bytes).
MAX_BODY: Final = 256 * 1024
#: Differences that are told of one pair of answers, and characters of each value.
MAX_DIFFERENCES: Final = 10
_MAX_TEXT = 80
#: Levels of JSON that are looked into.
_MAX_DEPTH = 50


class Answer:
    """One answer. ``content`` None: its body was not at hand, or is larger than is compared."""

    __slots__ = ("content", "headers", "status")

    def __init__(self, status: int, headers: RawHeaders, content: bytes | None) -> None:
        self.status = status
        self.headers = headers
        self.content = content if content is None or len(content) <= MAX_BODY else None


def can_compare(wanted: Comparison, real: Answer, copied: Answer) -> bool:
    """Whether both answers are known well enough."""
    return not wanted.json or (real.content is not None and copied.content is not None)


def differences(wanted: Comparison, real: Answer, copied: Answer) -> tuple[str, ...]:
    """Where the mirror's answer differs from the real one, at most
    :data:`MAX_DIFFERENCES` sentences; none: they are equal."""
    return tuple(islice(_differences(wanted, real, copied), MAX_DIFFERENCES))


def _differences(wanted: Comparison, real: Answer, copied: Answer) -> Iterator[str]:
    if wanted.status and real.status != copied.status:
        yield f"status: {real.status}, mirror {copied.status}"
    if wanted.headers:
        ours, theirs = HeaderMap(real.headers), HeaderMap(copied.headers)
        for name in wanted.headers:
            one, other = ours.get_all(name), theirs.get_all(name)
            if one != other:
                yield f"header {name}: {_shown(one)}, mirror {_shown(other)}"
    if wanted.json and real.content != copied.content:
        yield from _bodies(real.content or b"", copied.content or b"")


def _bodies(real: bytes, copied: bytes) -> Iterator[str]:
    one, other = _parsed(real), _parsed(copied)
    if one is _NO_JSON or other is _NO_JSON:
        yield "body: differs, and is not JSON on both sides"
    else:
        yield from _values(one, other, "$", _MAX_DEPTH)


_NO_JSON: Final = object()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return _NO_JSON


def _values(one: Any, other: Any, path: str, depth: int) -> Iterator[str]:
    """JSON's own equality: the order of members does not count, that of elements does."""
    if depth and isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in one or key not in other:
                yield f"{path}.{key[:_MAX_TEXT]}: only {'mirror' if key in other else 'original'}"
            else:
                yield from _values(one[key], other[key], f"{path}.{key[:_MAX_TEXT]}", depth - 1)
    elif depth and isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _values(left, right, f"{path}[{index}]", depth - 1)
    elif one != other or isinstance(one, bool) != isinstance(other, bool):
        yield f"{path}: {_shown(one)}, mirror {_shown(other)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


__all__ = ["MAX_BODY", "MAX_DIFFERENCES", "Answer", "can_compare", "differences"]
