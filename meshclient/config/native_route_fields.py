"""The fields of routes in the native policy file: names, shapes, descriptions.

The second half of :mod:`meshclient.config.native_fields`. Data only.
"""

from __future__ import annotations

from meshclient.config.native_rate_limit_fields import LIMITING, RATE_LIMIT_SECTIONS
from meshclient.config.native_shapes import (
    ATTEMPTS,
    COUNT,
    DURATION,
    FLAG,
    HTTP_STATUS,
    MATCHER,
    NAME,
    PERCENT,
    PORT,
    RETRY_ON,
    TEXT,
    TEXT_MAP,
    TEXTS,
    Section,
    choice,
    either,
    mapping_of,
    one_or_many,
    ref,
)

ROUTE_RETRIES: Section = {
    "attempts": (ATTEMPTS, "Extra tries after the first; 0 turns retries off. Default 2."),
    "on": (
        {"type": "array", "items": RETRY_ON},
        "When to retry: Envoy's retry_on words and status numbers. "
        "Default: connect-failure, refused-stream.",
    ),
    "per_try_timeout": (DURATION, "Limit of each try, the first included. Default: none."),
    "per_try_idle_timeout": (DURATION, "Limit without any byte received. Default: none."),
    "back_off": (ref("back_off"), "Wait between tries: exponential with full jitter."),
    "methods": (
        either(choice("any"), {"type": "array", "items": NAME}),
        "Methods to retry beyond the idempotent ones when the server may have seen the "
        'request; "any" for all.',
    ),
    "headers": (
        mapping_of(MATCHER),
        "Response headers that ask for a retry (for retriable-headers).",
    ),
    "request_headers": (mapping_of(MATCHER), "Only retry requests with these headers."),
    "retry_after": (ref("retry_after"), "Wait as long as the server asks."),
    "previous_hosts": (FLAG, "Avoid endpoints already tried. Default true."),
    "host_attempts": (COUNT, "Picks to find an endpoint not yet tried. Default 5."),
}

TRAFFIC: Section = {
    "timeout": (DURATION, "Limit of the whole call, all tries included; 0 for none. Default none."),
    "idle_timeout": (DURATION, "Limit without any byte in either direction. Default none."),
    "priority": (
        choice("default", "high"),
        "high: counted against limits.high_priority. Default default.",
    ),
    "fault": (ref("fault"), "Injected delay and abort."),
    "mirror": (one_or_many(ref("mirror")), "Copies of the request, whose answers are dropped."),
    "hedging": (ref("hedging"), "A second try when the first is slow."),
    "fallback": (ref("fallback"), "What answers when the call has failed for good."),
    **LIMITING,
}

ROUTE_SECTIONS: dict[str, Section] = {
    **RATE_LIMIT_SECTIONS,
    "retries": {
        **ROUTE_RETRIES,
        "budget": (
            either(choice("none"), ref("budget")),
            "Most retries as a share of all calls of the service. Default: a fifth of those that "
            "go well, and 2 per second; retries of failed connections are free.",
        ),
    },
    "route_retries": ROUTE_RETRIES,
    "back_off": {
        "base": (DURATION, "First wait at most. Default 25ms."),
        "max": (DURATION, "Longest wait. Default 10 x base."),
    },
    "retry_after": {
        "headers": (
            {"type": "array", "items": either(NAME, ref("reset_header"))},
            "Response headers that say how long. Default: Retry-After, in seconds.",
        ),
        "max": (DURATION, "Longest wait that is accepted. Default 300s."),
    },
    "reset_header": {
        "name": (NAME, "Name of the header."),
        "format": (choice("seconds", "unix_timestamp"), "Default seconds."),
    },
    "budget": {
        "percent": (PERCENT, "Retries per 100 requests. Default 20."),
        "min_concurrency": (
            {"type": "integer", "minimum": 0, "maximum": 4294967295},
            "Envoy's budget: so many retries at a time are always allowed. Default 3.",
        ),
        "min_per_second": (
            {"type": "number", "minimum": 0, "maximum": 2147483646},
            "So many retries per second are always allowed. Default 0, and 10 with ttl or ratio.",
        ),
        "interval": (
            DURATION,
            "Count the requests of this window instead of those in flight. Default 0, and 10s with "
            "min_retry_rate.",
        ),
        "ttl": (DURATION, "Linkerd's budget: how long an answer pays for retries. Default 10s."),
        "ratio": (
            {"type": "number", "minimum": 0, "maximum": 1000},
            "Linkerd's budget: retries that each answer pays for. Default 0.2.",
        ),
        "min_retry_rate": (
            ref("min_retry_rate"),
            "The Gateway API's budget: retries that are always allowed.",
        ),
    },
    "min_retry_rate": {
        "count": (
            {"type": "integer", "minimum": 0, "maximum": 1000000},
            "So many retries. Default 10.",
        ),
        "interval": (DURATION, "In this time. Default 1s."),
    },
    "hedging": {
        "delay": (DURATION, "Start a further try when the last got no answer for this time."),
        "max_hedges": (COUNT, "Tries of a call that the delay may start. Default 1."),
        "on_per_try_timeout": (
            FLAG,
            "Start a retry at the per-try timeout without giving the slow try up. Default false.",
        ),
    },
    "fallback": {
        "on": (
            {
                "type": "array",
                "items": either(
                    choice("local", "5xx"), {"type": "integer", "minimum": 400, "maximum": 599}
                ),
            },
            "Which failures: local (no response), 5xx, status numbers. Default: local, 5xx.",
        ),
        "last_good": (
            either(FLAG, ref("last_good")),
            "Answer GETs with the last good answer, if there is one.",
        ),
        "to": (NAME, "Send the request to this subset, service or service/subset."),
        "methods": (
            choice("any"),
            "to: requests that are not idempotent, too, although a server may have acted on them.",
        ),
        "respond": (ref("fallback_respond"), "Answer with this response."),
    },
    "last_good": {
        "max_age": (DURATION, "Older answers are not given. Default 5m."),
        "max_entries": (COUNT, "Answers kept. Default 1000."),
        "max_entry_bytes": (COUNT, "Larger answers are not kept. Default 65536."),
        "max_bytes": (COUNT, "Bytes of all answers kept. Default 16777216."),
        "headers": (
            {"type": "array", "items": NAME},
            "Request headers that tell answers apart, besides host, path, query and Vary.",
        ),
        "authorization": (
            FLAG,
            "Keep answers to requests with credentials, too, told apart by them. Default false.",
        ),
    },
    "fallback_respond": {
        "status": (HTTP_STATUS, "Status of the answer."),
        "headers": (TEXT_MAP, "Its headers."),
        "body": (TEXT, "Its body. Default empty."),
    },
    "fault": {
        "delay": (ref("fault_delay"), "Wait before the call."),
        "abort": (ref("fault_abort"), "Answer instead of calling."),
        "by_header": (
            PERCENT,
            "Requests ask for faults with x-envoy-fault-* headers; at most this share gets them.",
        ),
        "max_active": (COUNT, "Calls that suffer a fault at a time. Default: no limit."),
    },
    "fault_delay": {
        "fixed_delay": (DURATION, "How long."),
        "percentage": (PERCENT, "Percent of the calls. Default 100."),
    },
    "fault_abort": {
        "status": (HTTP_STATUS, "HTTP status of the answer."),
        "grpc_status": (
            either({"type": "integer", "minimum": 0, "maximum": 16}, NAME),
            "gRPC status, by name or number.",
        ),
        "percentage": (PERCENT, "Percent of the calls. Default 100."),
    },
    "mirror": {
        "to": (NAME, "A subset of this service, or a service."),
        "percentage": (PERCENT, "Percent of the calls. Default 100."),
        "shadow_host_suffix": (FLAG, "Put -shadow after the copy's host name. Default false."),
        "compare": (ref("mirror_compare"), "Compare the two answers."),
    },
    "mirror_compare": {
        "status": (FLAG, "Compare the status. Default true."),
        "headers": ({"type": "array", "items": NAME}, "Compare these response headers."),
        "json": (FLAG, "Compare the bodies as JSON. Default false."),
    },
    "route": {
        "name": (TEXT, "For reports."),
        "match": (one_or_many(ref("match")), "Conditions; of a list, any. Default: every call."),
        "to": (
            either(NAME, mapping_of(either({"type": "integer", "minimum": 0}, ref("share")))),
            "A subset of this service, a service, service/subset, or weights over them.",
        ),
        "to_header": (NAME, "Request header that names the service (or service/subset)."),
        "split_by_header": (NAME, "Request header whose number decides the weighted split."),
        "rewrite": (ref("rewrite"), "Change path and host of the request."),
        "redirect": (ref("redirect"), "Answer with a redirect."),
        "respond": (ref("respond"), "Answer without calling anything."),
        "request_headers": (ref("header_edits"), "Edits of the request's headers."),
        "response_headers": (ref("header_edits"), "Edits of the response's headers."),
        "retries": (ref("route_retries"), "Instead of the service's."),
        "circuit_breaker": (ref("circuit_breaker"), "A breaker of this route alone."),
        "subset": (TEXT_MAP, "Labels to choose endpoints by, for load_balancing: {subsets: ...}."),
        "hash_on": (one_or_many(ref("hash_on")), "Instead of the service's."),
        **TRAFFIC,
    },
    "share": {
        "weight": ({"type": "integer", "minimum": 0}, "Share = weight / sum of weights."),
        "host": (NAME, "Host header for this share."),
        "request_headers": (ref("header_edits"), "Edits for this share only."),
        "response_headers": (ref("header_edits"), "Edits for this share only."),
    },
    "match": {
        "path": (TEXT, "The whole path, without the query."),
        "prefix": (TEXT, "A plain text prefix of the path: /foo matches /foobar."),
        "segment_prefix": (TEXT, "A prefix of whole segments: /foo matches /foo/bar only."),
        "regex": (TEXT, "RE2 on the whole path."),
        "ignore_case": (FLAG, "For the path, not for regex. Default false."),
        "method": (one_or_many(NAME), "HTTP methods."),
        "scheme": (choice("http", "https"), "Scheme dialled."),
        "authority": (MATCHER, "Host header; upper and lower case are the same."),
        "headers": (mapping_of(MATCHER), "Request headers, all of them."),
        "query": (mapping_of(MATCHER), "Query parameters, undecoded, all of them."),
        "cookies": (mapping_of(MATCHER), "Cookies, all of them."),
        "port": (PORT, "Port dialled."),
        "source_labels": (TEXT_MAP, "Labels of the caller (node.labels), all of them."),
        "source_namespace": (NAME, "Namespace of the caller."),
        "percentage": (PERCENT, "Percent of the calls that match otherwise."),
        "grpc": (FLAG, "Only gRPC requests. Default false."),
    },
    "matcher": {
        "exact": (TEXT, "The whole value."),
        "prefix": (TEXT, "Its begin."),
        "suffix": (TEXT, "Its end."),
        "contains": (TEXT, "A part of it."),
        "regex": (TEXT, "RE2 on the whole value."),
        "present": (FLAG, "Whether it is there at all."),
        "range": (
            {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            "A whole number, [first, end): the end is outside. Headers only.",
        ),
        "invert": (FLAG, "Match when the condition does not hold. Headers and cookies."),
        "ignore_case": (FLAG, "Not for regex. Default false."),
        "missing_as_empty": (FLAG, "A missing header counts as empty text. Headers only."),
    },
    "rewrite": {
        "path": (TEXT, "The new path."),
        "prefix": (TEXT, "Instead of the matched prefix."),
        "regex": (ref("substitution"), "Replace every match in the path."),
        "host": (either(NAME, ref("host_rewrite")), "The new Host header."),
    },
    "substitution": {
        "pattern": (TEXT, "RE2."),
        "value": (TEXT, r"Replacement, with \1 for groups."),
    },
    "host_rewrite": {
        "header": (NAME, "The value of this request header."),
        "path_regex": (ref("substitution"), "The path, rewritten."),
        "endpoint": ({"const": True}, "The endpoint's own host name."),
    },
    "redirect": {
        "status": ({"enum": [301, 302, 303, 307, 308]}, "Default 301."),
        "scheme": (choice("http", "https"), "Default: as it came."),
        "host": (NAME, "Default: as it came."),
        "port": (PORT, "Default: as it came."),
        "path": (TEXT, "The new path."),
        "prefix": (TEXT, "Instead of the matched prefix."),
        "regex": (ref("substitution"), "Replace every match in the path."),
        "strip_query": (FLAG, "Drop the query. Default false."),
    },
    "respond": {
        "status": (HTTP_STATUS, "Status of the answer."),
        "body": (TEXT, "Body of the answer. Default empty."),
    },
    "header_edits": {
        "set": (TEXT_MAP, "Replace or add; values are Envoy format strings."),
        "add": (mapping_of(one_or_many(TEXT)), "Append further values."),
        "remove": (TEXTS, "Names to remove."),
    },
}
