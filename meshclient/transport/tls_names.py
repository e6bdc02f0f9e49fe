"""Whether a server's certificate carries an expected name: Envoy's SAN rules.

Pure functions over what ``ssl`` reports of a certificate. No handshake, no
file, and never a look at the subject's common name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshclient.model.cluster import SanMatcher
from meshclient.model.regex import compile_regex

#: ssl's words for the types of subject alternative names, and ours.
_TYPES = {"DNS": "dns", "URI": "uri", "IP Address": "ip", "email": "email"}
_SHOWN = 8


def presented_names(certificate: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(type, value) of each subject alternative name that has one of our types."""
    names: Sequence[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
    found = ((_TYPES.get(kind, ""), value.strip()) for kind, value in names)
    return [(kind, value) for kind, value in found if kind]


def any_matches(matchers: Iterable[SanMatcher], names: Sequence[tuple[str, str]]) -> bool:
    """True when one matcher accepts one name (Envoy: any of any)."""
    return any(matches(matcher, kind, value) for matcher in matchers for kind, value in names)


def matches(matcher: SanMatcher, kind: str, value: str) -> bool:
    """One expected name against one that the certificate carries."""
    if matcher.type not in ("", kind):
        return False
    wanted = matcher.value
    if matcher.kind == "exact":
        if kind == "dns":
            return dns_matches(wanted, value)
        return _same_ip(wanted, value) if kind == "ip" else wanted == value
    if kind == "ip":
        value = _plain_ip(value)
    if matcher.kind == "prefix":
        return value.startswith(wanted)
    if matcher.kind == "suffix":
        return value.endswith(wanted)
    return compile_regex(wanted).fullmatch(value)


def dns_matches(name: str, pattern: str) -> bool:
    """Whether the certificate's ``pattern`` covers the host ``name``.

    A wildcard counts once, in the left-most of several labels, not in an IDNA
    one (``dnsNameMatch`` in Envoy's source/common/tls/utility.cc).
    """
    name, pattern = name.lower(), pattern.lower()
    if name == pattern:
        return True
    label, dot, rest = pattern.partition(".")
    first, other_dot, others = name.partition(".")
    if not dot or not other_dot or rest != others or "*" in rest:
        return False
    if label.count("*") != 1 or label.startswith("xn--"):
        return False
    before, _, after = label.partition("*")
    return (
        len(label) <= len(first) + 1 and first.startswith(before) and first.endswith(after)
    ) or label == "*"


def _plain_ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def _same_ip(wanted: str, value: str) -> bool:
    return _plain_ip(wanted) == _plain_ip(value)


def describe_names(names: Sequence[tuple[str, str]]) -> str:
    """The names of a certificate for a message; long lists are cut."""
    if not names:
        return "no subject alternative name"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"{kind}:{value[:200]}" for kind, value in names[:_SHOWN]) + more
