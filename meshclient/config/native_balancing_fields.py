"""The fields of ``load_balancing`` that belong to one policy each: names, shapes, descriptions.

A part of :mod:`meshclient.config.native_fields`. Data only.
"""

from __future__ import annotations

from meshclient.config.native_balancing import FALLBACKS, SELECTOR_FALLBACKS
from meshclient.config.native_shapes import (
    DURATION,
    FLAG,
    NAME,
    TEXT,
    TEXT_MAP,
    Section,
    choice,
    either,
    ref,
)

_NAMES = {"type": "array", "items": NAME}
_KEYS = {**_NAMES, "minItems": 1}

BALANCING: Section = {
    "peak_ewma": (ref("peak_ewma"), "Constants of peak_ewma."),
    "client_side_weighted_round_robin": (
        ref("client_side_weighted_round_robin"),
        "How the endpoints' own load reports make weights.",
    ),
    "pick_first": (ref("pick_first"), "Settings of pick_first."),
    "subsets": (ref("endpoint_subsets"), "Choose endpoints by the labels that a route asks for."),
    "session": (ref("session"), "Keep a client's calls at one endpoint."),
    "subset_size": (
        {"type": "integer", "minimum": 0, "maximum": 4294967295},
        "Use so many endpoints of a very large cluster only, drawn once per process; 0: all. "
        "Default 0.",
    ),
}

BALANCING_SECTIONS: dict[str, Section] = {
    "peak_ewma": {
        "default_rtt": (DURATION, "Latency of an endpoint not measured yet. Default 30ms."),
        "decay": (DURATION, "Time constant of forgetting. Default 10s."),
    },
    "client_side_weighted_round_robin": {
        "blackout_period": (DURATION, "Reports must come for so long to count. Default 10s."),
        "weight_expiration_period": (DURATION, "A report counts for so long. Default 180s."),
        "weight_update_period": (DURATION, "Weights change so often; at least 100ms. Default 1s."),
        "error_utilization_penalty": (
            {"type": "number", "minimum": 0, "maximum": 1000000},
            "Times errors / requests is added to the utilization. Default 0.",
        ),
        "metric_names_for_computing_utilization": (
            _NAMES,
            "Metrics whose largest is the utilization, such as named_metrics.queue. "
            "Default: application_utilization, then cpu_utilization.",
        ),
    },
    "pick_first": {
        "shuffle_address_list": (FLAG, "Each process has an order of its own. Default false."),
    },
    "endpoint_subsets": {
        "subset_selectors": (
            {"type": "array", "items": ref("subset_selector"), "minItems": 1},
            "Label names that endpoints are grouped by.",
        ),
        "fallback_policy": (
            choice(*FALLBACKS),
            "For calls whose labels have no subset. Default no_fallback: 503.",
        ),
        "default_subset": (TEXT_MAP, "Labels of the endpoints that default_subset means."),
        "panic_mode_any": (FLAG, "Any endpoint where the fallback has none. Default false."),
    },
    "subset_selector": {
        "keys": (_KEYS, "Label names; a call must ask for exactly these."),
        "fallback_policy": (
            choice(*SELECTOR_FALLBACKS),
            "Instead of the cluster's, for calls with these keys.",
        ),
        "fallback_keys_subset": (_KEYS, "keys_subset: some of the keys, to try with these only."),
        "single_host_per_subset": (FLAG, "Keep the first endpoint only. Default false."),
    },
    "session": {
        "cookie": (either(NAME, ref("session_cookie")), "A cookie names the endpoint."),
        "header": (NAME, "A request header names the endpoint."),
        "strict": (FLAG, "503 when that endpoint is gone or unhealthy. Default false."),
    },
    "session_cookie": {
        "name": (NAME, "Name of the cookie."),
        "path": (TEXT, "Only for requests below this path. Default: all."),
        "ttl": (DURATION, "Life of the cookie, whole seconds; 0: a session cookie. Default 0."),
    },
}

__all__ = ["BALANCING", "BALANCING_SECTIONS"]
