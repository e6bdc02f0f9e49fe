"""``rate_limit`` and ``global_rate_limit`` of the native file: Reader to their settings.

How calls are counted is in ``resilience``.
"""

from __future__ import annotations

from dataclasses import replace

from meshclient.config.native_match import header_conditions
from meshclient.config.native_names import Names
from meshclient.config.native_values import (
    finish,
    flag_of,
    fraction_of,
    header_name,
    integer_of,
    one_or_many,
    required,
    seconds_of,
    string_match,
    text_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.matching import HeaderMatch, QueryMatch, StringMatch
from meshclient.model.rate_limit import (
    Actions,
    DescriptorAction,
    GlobalRateLimit,
    LocalDescriptor,
    LocalRateLimit,
    TokenBucket,
)

_LEAST_FILL_S = 0.05
_PSEUDO = (":path", ":method", ":authority", ":scheme")
_CONDITIONS = ("headers", "path", "method")
_SOURCES = ("request_header", "query_parameter", "generic_key", "query")


def read_rate_limit(r: Reader, scope: str) -> LocalRateLimit | None:
    """The local limit; None after an error."""
    bucket = _bucket(r)
    actions_reader, descriptors_reader = r.field("actions"), r.field("descriptors")
    actions = _actions(actions_reader) if actions_reader is not None else ()
    descriptors = (
        _descriptors(descriptors_reader, actions) if descriptors_reader is not None else ()
    )
    settings = LocalRateLimit(
        scope,
        bucket,
        actions,
        descriptors,
        always_consume_default=flag_of(r, "always_consume_default", True),
        max_dynamic_descriptors=integer_of(r, "max_dynamic_descriptors", 20, most=1_000_000),
        enabled=fraction_of(r, "enabled"),
        enforced=fraction_of(r, "enforced"),
        status=integer_of(r, "status", 429, 400, 599),
        resource_exhausted=flag_of(r, "resource_exhausted"),
        x_ratelimit_headers=flag_of(r, "x_ratelimit_headers"),
        retry_after=flag_of(r, "retry_after"),
        response_headers=_headers(r.field("refusal_headers")),
        source=r.source,
    )
    _check_descriptors(actions_reader, descriptors_reader)
    finish(r, "rate_limit")
    if bucket is None and not descriptors and r.is_mapping and descriptors_reader is None:
        hint = "add max_tokens, or write rate_limit: false for no limit"
        r.error('"max_tokens" is missing', code="missing-field", suggestion=hint)
    return settings if bucket is not None or descriptors else None


def _check_descriptors(actions: Reader | None, descriptors: Reader | None) -> None:
    if descriptors is not None and actions is None:
        text = "no request has a descriptor: nothing makes one"
        descriptors.error(text, code="missing-field", suggestion="add actions")
    if actions is not None and descriptors is None:
        text = "actions make descriptors, and no limit is given for one"
        actions.error(text, code="missing-field", suggestion="add descriptors")


def _bucket(r: Reader) -> TokenBucket | None:
    most = r.field("max_tokens")
    per_fill = integer_of(r, "tokens_per_fill", 1)
    interval_s = seconds_of(r, "fill_interval", 1.0)
    interval = r.field("fill_interval")
    if interval is not None and interval_s < _LEAST_FILL_S:
        interval.error("too short: at least 50ms", suggestion="fewer tokens come more often")
    if most is None:
        for name in ("tokens_per_fill", "fill_interval"):
            child = r.field(name)
            if child is not None:
                child.error("has no effect without max_tokens", code="missing-field")
        return None
    return TokenBucket(most.integer(0, 2**32 - 1) or 0, per_fill, interval_s)


def _descriptors(r: Reader, actions: tuple[Actions, ...]) -> tuple[LocalDescriptor, ...]:
    found: dict[tuple[tuple[str, str], ...], LocalDescriptor] = {}
    for item in r.elements():
        entries_reader = required(item, "entries")
        required(item, "max_tokens")
        bucket = _bucket(item)
        finish(item, "rate_limit_descriptor")
        if entries_reader is None or bucket is None:
            continue
        pairs = entries_reader.string_map().items()
        entries = tuple((wire_text(key), wire_text(value)) for key, value in pairs)
        if not entries:
            entries_reader.error("a descriptor has at least one entry")
        elif entries in found:
            item.error("the same entries are given twice", code="duplicate")
        elif actions and not any(_can_make(one, entries) for one in actions):
            keys = ", ".join(key for key, _ in entries)
            item.warning(f"no list of actions makes these keys in this order: {keys}")
        found.setdefault(entries, LocalDescriptor(entries, bucket))
    return tuple(found.values())


def _can_make(actions: Actions, entries: tuple[tuple[str, str], ...]) -> bool:
    """Whether the keys fit, some entries being optional."""
    wanted = [key for key, _ in entries]
    for action in actions:
        if wanted and action.key == wanted[0]:
            wanted.pop(0)
        elif not action.skip_if_absent:
            return False
    return not wanted


def _headers(r: Reader | None) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for name, child in r.items() if r is not None else ():
        key, value = header_name(name, child), child.string()
        if value is not None and any(c in value for c in "\r\n\0"):
            child.error("a header value cannot contain line breaks or NUL")
        elif key is not None and value is not None:
            found.append((key, wire_text(value)))
    return tuple(found)


def _actions(r: Reader) -> tuple[Actions, ...]:
    found: list[Actions] = []
    for item in r.elements():
        made = [_action(one) for one in one_or_many(item)]
        if not made:
            item.error("an empty list makes no descriptor")
        if made and None not in made:
            found.append(tuple(action for action in made if action is not None))
    return tuple(found)


def _action(r: Reader) -> DescriptorAction | None:
    key, value = text_of(r, "key"), text_of(r, "value")
    skip, expect = flag_of(r, "skip_if_absent"), flag_of(r, "expect_match", True)
    given = [name for name in (*_SOURCES, *_CONDITIONS) if r.field(name) is not None]
    conditions = [name for name in given if name in _CONDITIONS]
    action: DescriptorAction | None = None
    if conditions:
        match = _header_match(r)
        action = DescriptorAction("header_match", key or "header_match", headers=match)
    for name in given:
        if name in _SOURCES:
            action = _source(r, name, key) or action
    finish(r, "rate_limit_action")
    kinds = len(given) - len(conditions) + bool(conditions)
    if kinds != 1:
        if r.is_mapping:
            r.error("give one of request_header, query_parameter, generic_key, headers, query")
        return None
    return _completed(r, action, wire_text(value), skip, expect)


def _completed(
    r: Reader, action: DescriptorAction | None, value: str, skip: bool, expect: bool
) -> DescriptorAction | None:
    """With what only some kinds have."""
    if action is None:
        return None
    matching = action.kind in ("header_match", "query_match")
    if matching and not value:
        r.error('"value" is missing', code="missing-field")
    for name in ("value", "expect_match") if not matching else ("skip_if_absent",):
        child = r.field(name)
        if child is not None:
            child.error(f"{name} is not for this kind of action")
    if action.kind == "generic_key":
        return action
    return replace(action, value=value, skip_if_absent=skip, expect_match=expect)


def _source(r: Reader, name: str, key: str) -> DescriptorAction | None:
    child = r.field(name)
    assert child is not None
    if name == "query":
        return DescriptorAction("query_match", key or "query_match", query=_query_match(child))
    text = child.string()
    if not text:
        if text is not None:
            child.error("must not be empty")
        return None
    if name == "generic_key":
        return DescriptorAction("generic_key", key or "generic_key", value=wire_text(text))
    if name == "query_parameter":
        return DescriptorAction("query_parameter", key or text, wire_text(text))
    found = text if text in _PSEUDO else header_name(text, child)
    return None if found is None else DescriptorAction("request_header", key or found, found)


def _header_match(r: Reader) -> tuple[HeaderMatch, ...]:
    found: list[HeaderMatch] = []
    path, method = r.field("path"), r.field("method")
    if path is not None and (match := string_match(path, section="matcher")) is not None:
        found.append(HeaderMatch(":path", match))
    if method is not None and (text := method.string()):
        found.append(HeaderMatch(":method", StringMatch("exact", text)))
    return (*found, *header_conditions(r.field("headers")))


def _query_match(r: Reader) -> tuple[QueryMatch, ...]:
    found: list[QueryMatch] = []
    for name, child in r.items():
        match = string_match(child, section="matcher")
        if match is not None:
            found.append(QueryMatch(wire_text(name), match))
    return tuple(found)


def read_global_rate_limit(
    r: Reader, scope: str, names: Names, service: str
) -> GlobalRateLimit | None:
    """The question to a rate limit service; None after an error."""
    to, domain, actions = required(r, "service"), text_of(r, "domain"), required(r, "actions")
    required(r, "domain")
    cluster = _asked(to, names, service) if to is not None else None
    settings = GlobalRateLimit(
        scope,
        cluster or "",
        wire_text(domain),
        _actions(actions) if actions is not None else (),
        timeout_s=seconds_of(r, "timeout", 0.02),
        failure_mode_deny=flag_of(r, "failure_mode_deny"),
        status=integer_of(r, "status", 429, 400, 599),
        status_on_error=integer_of(r, "status_on_error", 500, 400, 599),
        resource_exhausted=flag_of(r, "resource_exhausted"),
        x_ratelimit_headers=flag_of(r, "x_ratelimit_headers"),
        x_envoy_ratelimited=flag_of(r, "x_envoy_ratelimited", True),
        source=r.source,
    )
    finish(r, "global_rate_limit")
    return settings if cluster and settings.actions else None


def _asked(to: Reader, names: Names, service: str) -> str | None:
    text = to.string()
    cluster = names.cluster(text, service, to) if text is not None else None
    if cluster is not None and cluster.partition("/")[0] not in names.speak_h2:
        hint = f"add protocol: h2 to service {cluster}"
        to.error("a rate limit service speaks gRPC over HTTP/2", suggestion=hint)
    return cluster


__all__ = ["read_global_rate_limit", "read_rate_limit"]
