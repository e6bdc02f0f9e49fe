"""The fields of rate limits, admission control and adaptive concurrency in the native policy
file: names, shapes, descriptions. Data only.
"""

from __future__ import annotations

from meshclient.config.native_shapes import (
    COUNT,
    DURATION,
    FLAG,
    MATCHER,
    NAME,
    PERCENT,
    TEXT_MAP,
    Section,
    Shape,
    either,
    mapping_of,
    one_or_many,
    ref,
)

_OFF: Shape = {"const": False}
_WHOLE: Shape = {"type": "integer", "minimum": 0, "maximum": 4294967295}
_REFUSAL: Shape = {"type": "integer", "minimum": 400, "maximum": 599}

#: What a service says for all its routes, and a route may say instead.
LIMITING: Section = {
    "rate_limit": (either(ref("rate_limit"), _OFF), "Tokens that calls take, in this process."),
    "global_rate_limit": (
        either(ref("global_rate_limit"), _OFF),
        "Ask a rate limit service (Envoy's protocol) before each call.",
    ),
    "admission_control": (
        either(ref("admission_control"), _OFF),
        "Refuse a share of the calls while too many fail.",
    ),
    "adaptive_concurrency": (
        either(ref("adaptive_concurrency"), _OFF),
        "Let in as many calls at a time as the service takes without slowing down.",
    ),
}

_BUCKET: Section = {
    "max_tokens": (_WHOLE, "Calls that may come at once; 0 refuses every call."),
    "tokens_per_fill": (COUNT, "Tokens that come in each fill_interval. Default 1."),
    "fill_interval": (DURATION, "At least 50ms; the tokens come evenly. Default 1s."),
}
_ACTIONS: Shape = {"type": "array", "items": one_or_many(ref("rate_limit_action"))}
_X_RATELIMIT = "Add x-ratelimit-limit, -remaining and -reset to responses. Default false."

RATE_LIMIT_SECTIONS: dict[str, Section] = {
    "rate_limit": {
        **_BUCKET,
        "actions": (_ACTIONS, "What makes descriptors of a request: one for each list."),
        "descriptors": (
            {"type": "array", "items": ref("rate_limit_descriptor")},
            "Descriptors with tokens of their own.",
        ),
        "always_consume_default": (
            FLAG,
            "Calls with a descriptor take a token of max_tokens, too. Default true.",
        ),
        "max_dynamic_descriptors": (
            {"type": "integer", "minimum": 1, "maximum": 1000000},
            "Values kept for each descriptor with open values. Default 20.",
        ),
        "enabled": (PERCENT, "Percent of the calls that take tokens. Default 100."),
        "enforced": (PERCENT, "Percent of those without a token that are refused. Default 100."),
        "status": (_REFUSAL, "Status of the refusal. Default 429."),
        "resource_exhausted": (
            FLAG,
            "gRPC calls get RESOURCE_EXHAUSTED instead of UNAVAILABLE. Default false.",
        ),
        "x_ratelimit_headers": (FLAG, _X_RATELIMIT),
        "retry_after": (FLAG, "Add Retry-After (seconds) to refusals. Default false."),
        "refusal_headers": (TEXT_MAP, "Headers added to refusals."),
    },
    "rate_limit_descriptor": {
        "entries": (TEXT_MAP, 'Keys and values, in order; "" is any value, each with its own.'),
        **_BUCKET,
    },
    "rate_limit_action": {
        "request_header": (NAME, "The value of this header; :path, :method, :authority work, too."),
        "query_parameter": (NAME, "The value of this query parameter."),
        "generic_key": (NAME, "This value, always."),
        "headers": (mapping_of(MATCHER), "value, when all these headers match."),
        "path": (MATCHER, "value, when the path (with its query) matches."),
        "method": (NAME, "value, when this is the method."),
        "query": (mapping_of(MATCHER), "value, when all these query parameters match."),
        "key": (
            NAME,
            "Key of the entry. Default: the name of the header or parameter, generic_key, "
            "header_match or query_match.",
        ),
        "value": (NAME, "Value of the entry, for conditions."),
        "expect_match": (FLAG, "false: the entry is for calls that do not match. Default true."),
        "skip_if_absent": (
            FLAG,
            "Without the header or parameter, leave the entry out, not the descriptor. "
            "Default false.",
        ),
    },
    "global_rate_limit": {
        "service": (NAME, "The rate limit service: a service of this file with protocol: h2."),
        "domain": (NAME, "Domain that the service knows the limits by."),
        "actions": (_ACTIONS, "What makes descriptors of a request: one for each list."),
        "timeout": (DURATION, "Longest wait for an answer. Default 20ms."),
        "failure_mode_deny": (FLAG, "Refuse calls when there is no answer. Default false."),
        "status": (_REFUSAL, "Status of the refusal. Default 429."),
        "status_on_error": (
            _REFUSAL,
            "Status when there is no answer and failure_mode_deny. Default 500.",
        ),
        "resource_exhausted": (
            FLAG,
            "gRPC calls get RESOURCE_EXHAUSTED instead of UNAVAILABLE. Default false.",
        ),
        "x_ratelimit_headers": (FLAG, _X_RATELIMIT),
        "x_envoy_ratelimited": (FLAG, "Add x-envoy-ratelimited to refusals. Default true."),
    },
    "admission_control": {
        "sampling_window": (DURATION, "Calls that count; whole seconds. Default 30s."),
        "aggression": (
            {"type": "number", "minimum": 1, "maximum": 100},
            "Shape of the ramp; 1 is a line, more refuses more. Default 1.",
        ),
        "success_threshold": (
            {"type": "number", "minimum": 1, "maximum": 100},
            "Percent of successes under which calls are refused. Default 95.",
        ),
        "rps_threshold": (_WHOLE, "With fewer calls per second none is refused. Default 0."),
        "max_rejection": (PERCENT, "Most percent of the calls that are refused. Default 80."),
        "http_success": (
            {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 100, "maximum": 600},
                    "minItems": 2,
                    "maxItems": 2,
                },
            },
            "Statuses that are successes: ranges [first, end). Default [[100, 500]].",
        ),
        "grpc_success": (
            {
                "type": "array",
                "minItems": 1,
                "items": {"type": "integer", "minimum": 0, "maximum": 16},
            },
            "gRPC codes that are successes. Default: those that do not speak against the server.",
        ),
    },
    "adaptive_concurrency": {
        "update_interval": (DURATION, "How often the limit is worked out. Default 100ms."),
        "percentile": (PERCENT, "Of the latencies of an interval. Default 50."),
        "max_concurrency": (COUNT, "Most calls at a time. Default 1000."),
        "min_concurrency": (COUNT, "Fewest calls at a time, and while measuring. Default 3."),
        "min_rtt_interval": (DURATION, "How often the least latency is measured. Default 60s."),
        "min_rtt_requests": (COUNT, "Calls that measure it. Default 50."),
        "fixed_min_rtt": (DURATION, "The least latency, not measured."),
        "jitter": (PERCENT, "Most percent that min_rtt_interval is longer. Default 15."),
        "buffer": (
            {"type": "number", "minimum": 0, "maximum": 1000},
            "Percent of the least latency that is noise. Default 25.",
        ),
        "status": (_REFUSAL, "Status of the refusal. Default 503."),
    },
}

RATE_LIMIT_REQUIRED: dict[str, tuple[str, ...]] = {
    "rate_limit_descriptor": ("entries", "max_tokens"),
    "global_rate_limit": ("service", "domain", "actions"),
}

__all__ = ["LIMITING", "RATE_LIMIT_REQUIRED", "RATE_LIMIT_SECTIONS"]
