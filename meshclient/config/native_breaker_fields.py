"""The fields of circuit breakers in the native policy file. Data only."""

from __future__ import annotations

from meshclient.config.native_shapes import (
    COUNT,
    DURATION,
    NAME,
    Section,
    Shape,
    choice,
    either,
    ref,
)

_RATE: Shape = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}
_STATUSES: Shape = {
    "type": "array",
    "items": either({"type": "integer", "minimum": 100, "maximum": 599}, choice("4xx", "5xx")),
}
_GRPC: Shape = {
    "type": "array",
    "items": either({"type": "integer", "minimum": 0, "maximum": 16}, NAME),
}

_SELECTION: Section = {
    "statuses": (_STATUSES, "HTTP statuses; 5xx means all of them."),
    "grpc_statuses": (_GRPC, "gRPC statuses, by name or number."),
    "exceptions": (
        {"type": "array", "items": NAME},
        "Classes of exceptions (TimeoutError, ssl.SSLError), or reset reasons such as "
        "connection-failure and per-try-timeout.",
    ),
}

BREAKER_SECTIONS: dict[str, Section] = {
    "circuit_breaker": {
        "consecutive_failures": (
            {"type": "integer", "minimum": 0, "maximum": 4294967295},
            "Failures in a row that open it; 0: off. Default 5, or off where a rate is given.",
        ),
        "failure_rate": (_RATE, "Percent of the calls of the window. Default off."),
        "slow_calls": (ref("slow_calls"), "Opens when too many calls are slow. Default off."),
        "window": (ref("breaker_window"), "Calls that the rates are of. Default the last 100."),
        "minimum_calls": (COUNT, "Calls in the window before a rate counts. Default 20."),
        "open_for": (DURATION, "How long it stays open. Default 30s."),
        "back_off": (ref("breaker_back_off"), "Longer each time that probing fails. Default no."),
        "half_open": (ref("half_open"), "How it finds out whether the service is back."),
        "failures": (
            ref("breaker_failures"),
            "What counts as a failure, instead of 5xx, resets and gRPC server errors.",
        ),
        "ignore": (ref("breaker_ignore"), "What counts neither as failure nor as success."),
        "per": (
            choice("service", "subset", "endpoint", "route"),
            "What has a breaker of its own. Default service; in a subset: subset.",
        ),
        "redis": (ref("breaker_redis"), "Share its state with other processes. Default no."),
    },
    "slow_calls": {
        "threshold": (DURATION, "A call to its response head is slow from here on."),
        "rate": (_RATE, "Percent of the calls of the window. Default 100."),
    },
    "breaker_window": {
        "calls": (COUNT, "The last so many calls; at most 100000."),
        "time": (DURATION, "The calls of the last so much time, instead."),
    },
    "breaker_back_off": {
        "multiplier": (
            {"type": "number", "minimum": 1, "maximum": 100},
            "open_for is multiplied by it each time that probing fails. Default 2.",
        ),
        "max": (DURATION, "Longest time open. Default 5m, or open_for if that is more."),
    },
    "half_open": {
        "requests": (COUNT, "Probes at a time. Default 1."),
        "successes": (COUNT, "Successful probes that close it. Default 1."),
    },
    "breaker_failures": _SELECTION,
    "breaker_ignore": _SELECTION,
    "breaker_redis": {
        "url": (NAME, "redis://, rediss:// or unix://; its password is never shown."),
        "namespace": (NAME, "Begin of the keys. Default meshclient."),
        "timeout": (DURATION, "Limit of each exchange with the server. Default 500ms."),
        "poll": (DURATION, "How often it is asked. Default 250ms."),
    },
}
