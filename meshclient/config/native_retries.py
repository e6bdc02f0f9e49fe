"""The ``retries`` blocks of the native file: Reader to :class:`RetryPolicy` and budget.

Native retries are careful by default: a failed try whose request the server
may have seen is repeated only for idempotent methods, unless the file names
others.
"""

from __future__ import annotations

from meshclient.config.native_budget import read_budget
from meshclient.config.native_match import header_conditions
from meshclient.config.native_values import (
    finish,
    flag_of,
    header_name,
    integer_of,
    limit_of,
    required,
    seconds_of,
)
from meshclient.config.reader import Reader
from meshclient.config.suggest import did_you_mean
from meshclient.model.retry import (
    IDEMPOTENT_METHODS,
    RETRY_ON_GRPC,
    RETRY_ON_HTTP,
    BackOff,
    Budget,
    RateLimitedBackOff,
    ResetHeader,
    RetryPolicy,
)

_TOKENS = RETRY_ON_HTTP | RETRY_ON_GRPC
_SAFE = frozenset({"connect-failure", "refused-stream"})

#: Without a ``retries`` block: only failures where nothing was sent.
DEFAULT_RETRIES = RetryPolicy(
    retry_on=_SAFE,
    num_retries=2,
    previous_hosts=True,
    host_attempts=5,
    methods=IDEMPOTENT_METHODS,
)


def read_retries(r: Reader, section: str) -> tuple[RetryPolicy | None, Budget | None]:
    """The policy (None: retries are off) and, in a service's block, the budget."""
    attempts = integer_of(r, "attempts", 2, 0, 100)
    retry_on, codes = _conditions(r.field("on", "true"))
    headers, request_headers = r.field("headers"), r.field("request_headers")
    back_off, retry_after = r.field("back_off"), r.field("retry_after")
    policy = RetryPolicy(
        retry_on=retry_on,
        num_retries=attempts,
        per_try_timeout_s=limit_of(r, "per_try_timeout", None),
        per_try_idle_timeout_s=limit_of(r, "per_try_idle_timeout", None),
        status_codes=codes,
        headers=header_conditions(headers),
        request_headers=header_conditions(request_headers),
        back_off=_back_off(back_off),
        rate_limited=_retry_after(retry_after) if retry_after is not None else None,
        previous_hosts=flag_of(r, "previous_hosts", True),
        host_attempts=integer_of(r, "host_attempts", 5),
        methods=_methods(r.field("methods")),
        source=r.source,
    )
    _check(r, policy)
    budget = r.field("budget") if section == "retries" else None
    found = read_budget(budget) if budget is not None else None
    finish(r, section)
    if attempts == 0 and policy.per_try_timeout_s is None and policy.per_try_idle_timeout_s is None:
        return None, found
    return policy, found


def _check(r: Reader, policy: RetryPolicy) -> None:
    if policy.headers and "retriable-headers" not in policy.retry_on:
        r.error("headers have no effect", suggestion="add retriable-headers to on")
    if "retriable-headers" in policy.retry_on and not policy.headers:
        r.error("retriable-headers needs headers", code="missing-field")
    if "retriable-status-codes" in policy.retry_on and not policy.status_codes:
        r.error("retriable-status-codes needs status numbers", suggestion="on: [503]")


def _conditions(r: Reader | None) -> tuple[frozenset[str], frozenset[int]]:
    """``on``: words of Envoy's retry_on, and status numbers (text or number)."""
    if r is None:
        return _SAFE, frozenset()
    words: set[str] = set()
    codes: set[int] = set()
    for item in r.elements():
        if item.is_number:
            code = item.integer(100, 599)
            codes.update(() if code is None else (code,))
            continue
        word = item.string()
        if word is None:
            continue
        if len(word) == 3 and word.isascii() and word.isdigit() and 100 <= int(word) <= 599:
            codes.add(int(word))
        elif word in _TOKENS:
            words.add(word)
        else:
            hint = did_you_mean(word, _TOKENS)
            item.error(
                f'unknown retry condition "{word[:80]}"',
                code="unknown-value",
                suggestion=hint or "see docs/policy-file.md for the conditions",
            )
    if codes:
        words.add("retriable-status-codes")
    return frozenset(words), frozenset(codes)


def _methods(r: Reader | None) -> frozenset[str] | None:
    if r is None:
        return IDEMPOTENT_METHODS
    if r.is_string:
        return None if r.string(("any",)) else IDEMPOTENT_METHODS
    named: set[str] = set()
    for item in r.elements():
        text = item.string()
        if text is not None and header_name(text, item) is not None:
            if text != text.upper():
                item.warning("methods are case-sensitive", suggestion=f'write "{text.upper()}"')
            named.add(text)
    return IDEMPOTENT_METHODS | named


def _back_off(r: Reader | None) -> BackOff:
    if r is None:
        return BackOff()
    base = seconds_of(r, "base", 0.025)
    longest = seconds_of(r, "max", base * 10)
    finish(r, "back_off")
    if longest < base:
        r.error("max is less than base")
    return BackOff(base, longest)


def _retry_after(r: Reader) -> RateLimitedBackOff:
    longest = seconds_of(r, "max", 300.0)
    listed = r.field("headers")
    finish(r, "retry_after")
    if listed is None:
        return RateLimitedBackOff((ResetHeader("retry-after"),), longest)
    found = (_reset_header(item) for item in listed.elements())
    return RateLimitedBackOff(tuple(h for h in found if h is not None), longest)


def _reset_header(r: Reader) -> ResetHeader | None:
    if not r.is_mapping:
        text = r.string()
        name = header_name(text, r) if text is not None else None
        return None if name is None else ResetHeader(name)
    name_reader, format_reader = required(r, "name"), r.field("format")
    kind = format_reader.string(("seconds", "unix_timestamp")) if format_reader else None
    finish(r, "reset_header")
    text = name_reader.string() if name_reader is not None else None
    name = header_name(text, r) if text is not None else None
    if name is None:
        return None
    return ResetHeader(name, "unix_timestamp" if kind == "unix_timestamp" else "seconds")
