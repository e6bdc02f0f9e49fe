"""Our route configurations, said in Envoy's v3 configuration (JSON).

A pure translation: what has no counterpart raises :class:`Untranslatable`
rather than being dropped. Fields are those of ``envoy.config.route.v3``.
"""

from __future__ import annotations

from typing import Any

from meshclient.model.hedging import Hedging
from meshclient.model.matching import (
    Fraction,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.model.retry import RetryPolicy
from meshclient.model.routes import (
    DirectResponse,
    Fault,
    ForwardAction,
    HeaderOperations,
    Mirror,
    PathRewrite,
    RedirectAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

Json = dict[str, Any]

_REDIRECT_CODES = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}
_NOT_FOUND_CODES = {503: "SERVICE_UNAVAILABLE", 404: "NOT_FOUND", 500: "INTERNAL_SERVER_ERROR"}
_APPEND = {
    "append": "APPEND_IF_EXISTS_OR_ADD",
    "overwrite": "OVERWRITE_IF_EXISTS_OR_ADD",
    "add_if_absent": "ADD_IF_ABSENT",
    "overwrite_if_exists": "OVERWRITE_IF_EXISTS",
}
_DENOMINATORS = {100: "HUNDRED", 10_000: "TEN_THOUSAND", 1_000_000: "MILLION"}


FAULT_FILTER = "envoy.filters.http.fault"


class Untranslatable(ValueError):
    """Envoy has no word for it, or the harness does not use that word."""


def seconds(value: float) -> str:
    """A protobuf duration."""
    return f"{value:.9f}s"


def table_json(table: RouteConfiguration) -> Json:
    """``RouteConfiguration``. Routes may name clusters that do not exist, as ours may."""
    return {
        "name": table.name,
        "virtual_hosts": [_virtual_host(host) for host in table.virtual_hosts],
        "ignore_port_in_host_matching": table.ignore_port,
        "most_specific_header_mutations_wins": table.most_specific_wins,
        "validate_clusters": False,
        **_edits(table.request_headers, table.response_headers),
    }


def _virtual_host(host: VirtualHost) -> Json:
    return {
        "name": host.name,
        "domains": list(host.domains),
        "routes": [_route(route) for route in host.routes],
        "include_request_attempt_count": host.include_attempt_count,
        **_edits(host.request_headers, host.response_headers),
    }


def _route(route: Route) -> Json:
    out: Json = {
        "name": route.name,
        "match": _match(route.match),
        **_edits(route.request_headers, route.response_headers),
    }
    if isinstance(route.action, ForwardAction):
        out["route"] = _forward(route.action)
    elif isinstance(route.action, RedirectAction):
        out["redirect"] = _redirect(route.action)
    else:
        out["direct_response"] = _direct(route.action)
    if route.fault is not None:
        out["typed_per_filter_config"] = {FAULT_FILTER: fault_json(route.fault)}
    return out


def fault_json(fault: Fault) -> Json:
    """``HTTPFault``; empty where nothing is injected."""
    out: Json = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "max_active_faults": min(fault.max_active, 2**32 - 1),
    }
    if fault.by_header or fault.delay_s is not None:
        how: Json = {"header_delay": {}}
        if not fault.by_header:
            assert fault.delay_s is not None
            how = {"fixed_delay": seconds(fault.delay_s)}
        out["delay"] = {**how, "percentage": _percent(fault.delay_fraction)}
    status: Json = {}
    if fault.by_header:
        status = {"header_abort": {}}
    elif fault.abort_grpc_status is not None:
        status = {"grpc_status": fault.abort_grpc_status}
    elif fault.abort_status is not None:
        status = {"http_status": fault.abort_status}
    if status:
        out["abort"] = {**status, "percentage": _percent(fault.abort_fraction)}
    return out


def _edits(request: HeaderOperations, response: HeaderOperations) -> Json:
    return {
        "request_headers_to_remove": list(request.remove),
        "request_headers_to_add": _changes(request),
        "response_headers_to_remove": list(response.remove),
        "response_headers_to_add": _changes(response),
    }


def _changes(operations: HeaderOperations) -> list[Json]:
    return [
        {
            "header": {"key": change.name, "value": change.value},
            "append_action": _APPEND[change.action],
            "keep_empty_value": change.keep_empty,
        }
        for change in operations.changes
    ]


def _match(match: RouteMatch) -> Json:
    out = _path(match.path)
    out["headers"] = [_header(header) for header in match.headers]
    out["query_parameters"] = [_query(query) for query in match.query]
    out["cookies"] = [
        {
            "name": cookie.name,
            "string_match": string_json(cookie.value),
            "invert_match": cookie.invert,
        }
        for cookie in match.cookies
    ]
    if match.fraction is not None:
        out["runtime_fraction"] = {"default_value": _percent(match.fraction)}
    if match.grpc:
        out["grpc"] = {}
    return out


def _path(path: PathMatch | None) -> Json:
    if path is None:
        return {"prefix": "/"}
    if path.kind == "regex":
        return {"safe_regex": {"regex": path.value}}
    field = {"prefix": "prefix", "exact": "path", "segment_prefix": "path_separated_prefix"}
    return {field[path.kind]: path.value, "case_sensitive": not path.ignore_case}


def string_json(match: StringMatch) -> Json:
    """``StringMatcher``."""
    if match.kind == "regex":
        return {"safe_regex": {"regex": match.value}}
    return {match.kind: match.value, "ignore_case": match.ignore_case}


def _header(match: HeaderMatch) -> Json:
    out: Json = {
        "name": match.name,
        "invert_match": match.invert,
        "treat_missing_header_as_empty": match.treat_missing_as_empty,
    }
    if match.value is not None:
        out["string_match"] = string_json(match.value)
    elif match.range is not None:
        out["range_match"] = {"start": match.range[0], "end": match.range[1]}
    else:
        out["present_match"] = match.present
    return out


def _query(match: QueryMatch) -> Json:
    if match.value is None:
        return {"name": match.name, "present_match": match.present}
    return {"name": match.name, "string_match": string_json(match.value)}


# --- actions ------------------------------------------------------------------------------------


def _forward(action: ForwardAction) -> Json:
    out: Json = {
        "timeout": seconds(action.timeout_s or 0),
        "cluster_not_found_response_code": _NOT_FOUND_CODES[action.cluster_not_found_status],
        "append_x_forwarded_host": action.append_x_forwarded_host,
        **_targets(action),
        **_path_rewrite(action.path_rewrite),
        **_host_rewrite(action),
    }
    if action.priority == "high":
        out["priority"] = "HIGH"
    if action.idle_timeout_s is not None:
        out["idle_timeout"] = seconds(action.idle_timeout_s)
    if action.retry is not None:
        out["retry_policy"] = retry_json(action.retry)
    if action.mirrors:
        out["request_mirror_policies"] = [_mirror(mirror) for mirror in action.mirrors]
    if action.hedging is not None:
        out["hedge_policy"] = _hedging(action.hedging)
    if action.hash_policy:
        raise Untranslatable("hash policies are not generated")
    if action.include_attempt_count:
        raise Untranslatable("Envoy counts attempts per virtual host")
    return out


def _mirror(mirror: Mirror) -> Json:
    if mirror.compare is not None:
        raise Untranslatable("Envoy compares no answers")
    return {
        "cluster": mirror.cluster,
        "runtime_fraction": {"default_value": _percent(mirror.fraction)},
        "disable_shadow_host_suffix_append": not mirror.host_suffix,
    }


def _hedging(hedging: Hedging) -> Json:
    if hedging.delay_s is not None:
        raise Untranslatable("Envoy hedges at the per-try timeout only")
    return {"hedge_on_per_try_timeout": hedging.on_per_try_timeout}


def _targets(action: ForwardAction) -> Json:
    if action.cluster_header:
        return {"cluster_header": action.cluster_header}
    if len(action.clusters) == 1 and _plain(action.clusters[0]):
        return {"cluster": action.clusters[0].cluster}
    split: Json = {"clusters": [_weighted(target) for target in action.clusters]}
    if action.weight_header:
        split["header_name"] = action.weight_header
    return {"weighted_clusters": split}


def _plain(target: WeightedCluster) -> bool:
    return not (target.request_headers or target.response_headers or target.host_rewrite)


def _weighted(target: WeightedCluster) -> Json:
    out: Json = {
        "name": target.cluster,
        "weight": target.weight,
        **_edits(target.request_headers, target.response_headers),
    }
    if target.host_rewrite:
        out["host_rewrite_literal"] = target.host_rewrite
    return out


def _path_rewrite(rewrite: PathRewrite | None) -> Json:
    if rewrite is None:
        return {}
    if rewrite.kind == "prefix":
        return {"prefix_rewrite": rewrite.value}
    if rewrite.kind == "full":
        # Envoy has no plain "replace the path"; a substitution of everything is it.
        literal = rewrite.value.replace("\\", "\\\\")
        return {"regex_rewrite": _substitution("^/.*$", literal)}
    return {"regex_rewrite": _substitution(rewrite.pattern, rewrite.value)}


def _substitution(pattern: str, value: str) -> Json:
    return {"pattern": {"regex": pattern}, "substitution": value}


def _host_rewrite(action: ForwardAction) -> Json:
    rewrite = action.host_rewrite
    if rewrite is None:
        return {}
    if rewrite.kind == "literal":
        return {"host_rewrite_literal": rewrite.value}
    if rewrite.kind == "header":
        return {"host_rewrite_header": rewrite.value}
    if rewrite.kind == "path_regex":
        return {"host_rewrite_path_regex": _substitution(rewrite.pattern, rewrite.value)}
    return {"auto_host_rewrite": True}


def _redirect(action: RedirectAction) -> Json:
    out: Json = {
        "response_code": _REDIRECT_CODES[action.status],
        "strip_query": action.strip_query,
    }
    if action.scheme:
        out["scheme_redirect"] = action.scheme
    elif action.https:
        out["https_redirect"] = True
    if action.host:
        out["host_redirect"] = action.host
    if action.port is not None:
        out["port_redirect"] = action.port
    if action.path:
        out["path_redirect"] = action.path
    out.update(_path_rewrite(action.path_rewrite))
    return out


def _direct(action: DirectResponse) -> Json:
    out: Json = {"status": action.status}
    if action.body:
        out["body"] = {"inline_string": action.body.decode("latin-1")}
    return out


def _percent(share: Fraction) -> Json:
    return {"numerator": share.numerator, "denominator": _DENOMINATORS[share.denominator]}


def retry_json(policy: RetryPolicy) -> Json:
    """``RetryPolicy``. ``methods`` is ours alone and must be None."""
    if policy.methods is not None:
        raise Untranslatable("Envoy retries any method")
    out: Json = {
        "retry_on": ",".join(sorted(policy.retry_on)),
        "num_retries": policy.num_retries,
        "retriable_status_codes": sorted(policy.status_codes),
        "retriable_headers": [_header(header) for header in policy.headers],
        "retriable_request_headers": [_header(header) for header in policy.request_headers],
        "host_selection_retry_max_attempts": policy.host_attempts,
        "retry_back_off": {
            "base_interval": seconds(policy.back_off.base_s),
            "max_interval": seconds(policy.back_off.max_s),
        },
    }
    if policy.per_try_timeout_s is not None:
        out["per_try_timeout"] = seconds(policy.per_try_timeout_s)
    if policy.per_try_idle_timeout_s is not None:
        out["per_try_idle_timeout"] = seconds(policy.per_try_idle_timeout_s)
    if policy.previous_hosts:
        out["retry_host_predicate"] = [_PREVIOUS_HOSTS]
    if policy.rate_limited is not None:
        out["rate_limited_retry_back_off"] = {
            "reset_headers": [
                {"name": header.name, "format": header.format.upper()}
                for header in policy.rate_limited.reset_headers
            ],
            "max_interval": seconds(policy.rate_limited.max_s),
        }
    return out


_PREVIOUS_HOSTS: Json = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3."
        "PreviousHostsPredicate"
    },
}
