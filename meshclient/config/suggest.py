"""What somebody probably meant who wrote an unknown word.

Pure text comparison; no document, no position.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Well-known confusions that no edit distance finds.
_CONFUSIONS: dict[str, tuple[str, ...]] = {
    "address": ("endpoints", "dns", "host"),
    "backoff": ("back_off",),
    "breaker": ("circuit_breaker",),
    "circuitBreaker": ("circuit_breaker", "outlierDetection", "connectionPool"),
    "codes": ("on", "retryOn"),
    "count": ("attempts",),
    "destination": ("to", "route"),
    "endpoint": ("endpoints",),
    "header": ("headers",),
    "hostname": ("dns", "host", "hosts"),
    "host": ("hosts", "host"),
    "lb": ("load_balancing", "loadBalancer"),
    "loadBalancer": ("load_balancing",),
    "load_balancer": ("load_balancing", "loadBalancer"),
    "loadBalancing": ("load_balancing", "loadBalancer"),
    "max_attempts": ("attempts",),
    "max_retries": ("attempts",),
    "maxAttempts": ("attempts",),
    "numRetries": ("attempts",),
    "num_retries": ("attempts",),
    "outlier": ("outlier_detection", "outlierDetection"),
    "path": ("uri", "path"),
    "paths": ("path",),
    "percent": ("percentage",),
    "percentage": ("percent",),
    "query_params": ("query",),
    "queryParams": ("query",),
    "queryParameters": ("query", "queryParams"),
    "request_timeout": ("timeout",),
    "retry": ("retries",),
    "retry_on": ("on",),
    "retryOn": ("on",),
    "route": ("to", "routes"),
    "rule": ("match",),
    "service": ("services",),
    "split": ("to",),
    "targets": ("endpoints", "to"),
    "upstreams": ("endpoints",),
    "uri": ("path", "prefix"),
    "url": ("path",),
    "version": ("labels", "subset"),
    "weights": ("to",),
}


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or "" when none is near."""
    candidates = sorted(set(known) - {word})
    if len(word) > 80:
        return ""
    folded: dict[str, str] = {}
    for name in candidates:
        folded.setdefault(_fold(name), name)
    if _fold(word) in folded:
        return folded[_fold(word)]  # timeOut, time_out, time-out
    for meant in _CONFUSIONS.get(word, ()):
        if meant in candidates:
            return meant
    near = difflib.get_close_matches(_fold(word), list(folded), n=1, cutoff=0.7)
    return folded[near[0]] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean "timeout"?``, or the list of known words when it is short."""
    names = sorted(set(known))
    meant = closest(word, names)
    if meant:
        return f'did you mean "{meant}"?'
    if names and len(names) <= 12:
        return "known here: " + ", ".join(names)
    return ""


def _fold(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
