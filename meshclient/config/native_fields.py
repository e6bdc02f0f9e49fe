"""The fields of the native policy file: names, JSON Schema shapes, descriptions.

One table for the published JSON Schema and for the reader's tests, so that the
two cannot drift. Data only; reads no document.
"""

from __future__ import annotations

from meshclient.config.native_balancing_fields import BALANCING, BALANCING_SECTIONS
from meshclient.config.native_breaker_fields import BREAKER_SECTIONS
from meshclient.config.native_health_fields import ENDPOINT_HEALTH, HEALTH, HEALTH_SECTIONS
from meshclient.config.native_outlier_fields import OUTLIER_SECTIONS
from meshclient.config.native_propagation import PROPAGATION_SECTIONS
from meshclient.config.native_rate_limit_fields import RATE_LIMIT_REQUIRED
from meshclient.config.native_route_fields import ROUTE_SECTIONS, TRAFFIC
from meshclient.config.native_shapes import (
    COUNT,
    DURATION,
    FLAG,
    HASH_FUNCTIONS,
    LB_POLICIES,
    NAME,
    PERCENT,
    PORT,
    RING_SIZE,
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
from meshclient.config.native_topology_fields import (
    TOPOLOGY,
    TOPOLOGY_REQUIRED,
    TOPOLOGY_SECTIONS,
)

_CLUSTER_POLICY: Section = {
    "load_balancing": (
        either(choice(*LB_POLICIES), ref("load_balancing")),
        "How an endpoint is chosen. Default least_request.",
    ),
    "limits": (ref("limits"), "Most connections and requests at a time."),
    "connection": (ref("connection"), "Life of connections."),
    "circuit_breaker": (ref("circuit_breaker"), "No calls for a while after too many failures."),
    "outlier_detection": (ref("outlier_detection"), "Passive health: who fails gets no calls."),
    **HEALTH,
    "tls": (ref("tls"), "How connections to the endpoints are secured. Default: plain text."),
    "proxy": (TEXT, "http://, socks5:// or socks5h:// proxy to the endpoints. Default none."),
}

_LIMITS: Section = {
    "max_connections": (
        COUNT,
        "Open connections to all endpoints; requests beyond wait. Default: no limit.",
    ),
    "max_connections_per_endpoint": (
        COUNT,
        "Open connections to one endpoint; requests beyond wait. Default: no limit.",
    ),
    "max_pending_requests": (
        COUNT,
        "Requests that wait for a connection; more are refused. Default: no limit.",
    ),
    "max_requests": (COUNT, "Requests in flight; more are refused. Default: no limit."),
    "max_retries": (
        {"type": "integer", "minimum": 0, "maximum": 4294967295},
        "Retries in flight at a time. Default: no limit.",
    ),
}

SECTIONS: dict[str, Section] = {
    "file": {
        "version": ({"const": 1}, "Version of this file format: 1."),
        "node": (ref("node"), "Who is calling."),
        "outbound": (
            choice("allow_any", "registry_only"),
            "What happens to hosts that no policy knows. Default allow_any.",
        ),
        "propagation": (
            ref("propagation"),
            "What calls take along from the request that they are made for.",
        ),
        "services": (
            {"type": "object", "additionalProperties": ref("service")},
            "Services by the host name that the application dials.",
        ),
    },
    "node": {
        "namespace": (NAME, "Namespace of the caller. Default: default."),
        "locality": (either(TEXT, ref("locality")), "Where the caller runs."),
        "labels": (TEXT_MAP, "Labels of the caller."),
        "domain": (NAME, "DNS domain of the cluster. Default cluster.local."),
        "workload_certificates": (
            TEXT,
            "Folder of the workload's own certificates, for ISTIO_MUTUAL. Default: where Istio "
            "mounts them.",
        ),
    },
    "locality": {
        "region": (TEXT, "Region."),
        "zone": (TEXT, "Zone in the region."),
        "sub_zone": (TEXT, "Part of the zone, such as a rack."),
    },
    "service": {
        "hosts": (TEXTS, "Further host names; *.example.com and * are wildcards."),
        "port": (PORT, "Only calls to this port. Default: any port."),
        "protocol": (choice("http1", "h2"), "Protocol of the endpoints. Default http1."),
        "endpoints": (
            {"type": "array", "items": either(NAME, ref("endpoint"))},
            "Fixed addresses: host:port, [v6]:port or unix:///path.",
        ),
        "dns": (
            either(NAME, {"type": "array", "items": either(NAME, ref("endpoint"))}, ref("dns")),
            "Names with port; every address they resolve to is an endpoint.",
        ),
        "srv": (NAME, "A DNS SRV name; ports, weights and priorities come from it."),
        "kubernetes": (ref("kubernetes"), "A Kubernetes service. Not yet honoured."),
        "consul": (ref("consul"), "A Consul service. Not yet honoured."),
        "eureka": (either(NAME, ref("eureka")), "An Eureka application. Not yet honoured."),
        "nacos": (ref("nacos"), "A Nacos service. Not yet honoured."),
        **_CLUSTER_POLICY,
        **TRAFFIC,
        "retries": (ref("retries"), "When a failed try is repeated."),
        "subsets": (
            mapping_of(ref("subset")),
            "Named parts of the endpoints, chosen by their labels.",
        ),
        "routes": (
            {"type": "array", "items": ref("route")},
            "Tried in order; when none matches, all endpoints of the service.",
        ),
    },
    "endpoint": {
        "address": (NAME, "host:port, [v6]:port or unix:///path."),
        "labels": (TEXT_MAP, "Labels that subsets choose by."),
        "weight": (COUNT, "Share of the calls. Default 1."),
        "locality": (either(TEXT, ref("locality")), "Where the endpoint runs."),
        "priority": (
            {"type": "integer", "minimum": 0, "maximum": 127},
            "Failover level, 0 first.",
        ),
        "hostname": (TEXT, "Host name of this endpoint, for rewrite.host: {endpoint: true}."),
        **ENDPOINT_HEALTH,
    },
    "dns": {
        "names": (one_or_many(either(NAME, ref("endpoint"))), "Names with port."),
        "mode": (
            choice("strict", "logical"),
            "strict: every address is an endpoint; logical: one endpoint. Default strict.",
        ),
    },
    "kubernetes": {
        "service": (NAME, "Name of the service."),
        "namespace": (NAME, "Default: the caller's."),
        "port": (either(PORT, NAME), "Number or name of the service port."),
    },
    "consul": {
        "service": (NAME, "Name of the service."),
        "tags": (TEXTS, "Only instances with all of these tags."),
        "datacenter": (NAME, "Default: the agent's."),
    },
    "eureka": {"app": (NAME, "Name of the application.")},
    "nacos": {
        "service": (NAME, "Name of the service."),
        "group": (NAME, "Default DEFAULT_GROUP."),
        "namespace": (NAME, "Default public."),
    },
    "subset": {
        "labels": (TEXT_MAP, "Labels that an endpoint must carry, all of them."),
        **_CLUSTER_POLICY,
    },
    "load_balancing": {
        "policy": (choice(*LB_POLICIES), "Default least_request."),
        "choice_count": (
            {"type": "integer", "minimum": 2, "maximum": 100},
            "least_request: endpoints compared per pick. Default 2.",
        ),
        "active_request_bias": (
            {"type": "number", "minimum": 0, "maximum": 100},
            "least_request with weights: how much requests in flight count. Default 1.",
        ),
        "minimum_ring_size": (RING_SIZE, "ring_hash: least number of points. Default 1024."),
        "maximum_ring_size": (RING_SIZE, "ring_hash: most points. Default 8388608."),
        "hash_function": (choice(*HASH_FUNCTIONS), "ring_hash. Default xx_hash."),
        "table_size": (
            {"type": "integer", "minimum": 2, "maximum": 5000011},
            "maglev: places of the table, a prime. Default 65537.",
        ),
        "hash_balance_factor": (
            {"type": "integer", "minimum": 0, "maximum": 4294967295},
            "ring_hash and maglev: most requests in flight at one endpoint, in percent of the "
            "mean; at least 100. Default 0: any number.",
        ),
        "use_hostname_for_hashing": (
            FLAG,
            "ring_hash and maglev: place endpoints by host name. Default false: by address.",
        ),
        "hash_on": (
            one_or_many(ref("hash_on")),
            "ring_hash and maglev: what calls of one endpoint have in common.",
        ),
        "slow_start": (ref("slow_start"), "Ramp up new endpoints."),
        **BALANCING,
        **TOPOLOGY,
    },
    **BALANCING_SECTIONS,
    **TOPOLOGY_SECTIONS,
    "slow_start": {
        "window": (DURATION, "Length of the ramp."),
        "minimum_percent": (PERCENT, "Share at its start. Default 10."),
        "aggression": (
            {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
            "Shape of the ramp; 1 is a line. Default 1.",
        ),
    },
    "hash_on": {
        "header": (NAME, "A request header."),
        "cookie": (NAME, "A cookie; made when missing if ttl is given."),
        "ttl": (DURATION, "Life of the cookie that is made; 0 for a session cookie."),
        "path": (TEXT, "Path of the cookie that is made."),
        "attributes": (TEXT_MAP, "Further attributes of the cookie that is made."),
        "regex_rewrite": (ref("substitution"), "Hash the header's values after this rewrite."),
        "query": (NAME, "A query parameter."),
        "source_ip": ({"const": True}, "The caller's address."),
        "context": (NAME, "A value of the caller's own context."),
        "terminal": (FLAG, "Stop here when this gave a key. Default false."),
    },
    "limits": {
        **_LIMITS,
        "high_priority": (
            ref("high_priority_limits"),
            "Those of the routes of priority high, counted apart. Default: no limit.",
        ),
    },
    "high_priority_limits": _LIMITS,
    "connection": {
        "connect_timeout": (DURATION, "Default 10s."),
        "idle_timeout": (DURATION, "Close connections unused for so long; 0: never. Default 1h."),
        "max_duration": (
            DURATION,
            "Most age of a connection, less up to 10 %; 0: any. Default any.",
        ),
        "max_requests": (
            {"type": "integer", "minimum": 0, "maximum": 4294967295},
            "Requests per connection; 0: any number. Default 0.",
        ),
        "keepalive": (ref("keepalive"), "TCP keep-alive probes."),
        "proxy_protocol": (
            choice("v1", "v2"),
            "Begin every connection with a PROXY protocol header. Default none.",
        ),
        "resend_stale": (
            {"type": "boolean"},
            "Send an idempotent request again, once and outside the retries, when a kept-alive "
            "connection ended before a byte of an answer. Default false.",
        ),
        "preconnect_ratio": (
            {"type": "number", "minimum": 1, "maximum": 3},
            "Connections per request in flight, opened ahead of need. Default 1: none ahead.",
        ),
        "warm_up": (
            {"type": "integer", "minimum": 0, "maximum": 64},
            "Connections kept open to each endpoint from the first call on. Default 0.",
        ),
        "max_concurrent_streams": (
            {"type": "integer", "minimum": 0, "maximum": 2147483647},
            "HTTP/2: requests of one connection at a time; 0: as many as the server allows. "
            "Default 0.",
        ),
        "max_response_header_kb": (
            {"type": "integer", "minimum": 1, "maximum": 8192},
            "Most KiB of a response head. Default 80.",
        ),
        "max_response_headers": (COUNT, "Most header lines of a response. Default 100."),
    },
    "keepalive": {
        "probes": (
            {"type": "integer", "minimum": 1, "maximum": 127},
            "Unanswered probes before the connection counts as dead.",
        ),
        "time": (DURATION, "Quiet time before the first probe; whole seconds."),
        "interval": (DURATION, "Time between probes; whole seconds."),
    },
    "tls": {
        "mode": (choice("disable", "simple", "mutual"), "mutual: with a client certificate."),
        "ca": (NAME, "File of CA certificates, relative to this file. Default: the system's."),
        "certificate": (NAME, "File of the client certificate."),
        "key": (NAME, "File of its key."),
        "subject_alt_names": (
            {"type": "array", "items": either(NAME, ref("san"))},
            "Names of which the server must carry one. Default: the server name asked for.",
        ),
        "sni": (NAME, "Server name to ask for. Default: the host dialled."),
        "insecure_skip_verify": (FLAG, "Accept any certificate. Default false."),
        "crl": (NAME, "File of revoked certificates."),
    },
    "san": {
        "exact": (NAME, "The whole name; DNS names by certificate rules."),
        "prefix": (NAME, "How it begins."),
        "suffix": (NAME, "How it ends."),
        "regex": (NAME, "RE2 expression of the whole name."),
        "type": (choice("dns", "uri", "ip", "email"), "Type of the name. Default: any."),
    },
    **BREAKER_SECTIONS,
    **HEALTH_SECTIONS,
    **PROPAGATION_SECTIONS,
    **OUTLIER_SECTIONS,
    **ROUTE_SECTIONS,
}

REQUIRED: dict[str, tuple[str, ...]] = {
    "file": ("version",),
    "endpoint": ("address",),
    "dns": ("names",),
    "kubernetes": ("service",),
    "consul": ("service",),
    "eureka": ("app",),
    "nacos": ("service",),
    "subset": ("labels",),
    "slow_start": ("window",),
    **TOPOLOGY_REQUIRED,
    "endpoint_subsets": ("subset_selectors",),
    "subset_selector": ("keys",),
    "session_cookie": ("name",),
    "bytes": ("hex",),
    "tls": ("mode",),
    "reset_header": ("name",),
    "inbound_deadline": ("header",),
    "fault_delay": ("fixed_delay",),
    "mirror": ("to",),
    "slow_calls": ("threshold",),
    "breaker_redis": ("url",),
    "share": ("weight",),
    "substitution": ("pattern", "value"),
    "respond": ("status",),
    "fallback_respond": ("status",),
    **RATE_LIMIT_REQUIRED,
}
