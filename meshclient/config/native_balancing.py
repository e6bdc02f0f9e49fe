"""The parts of ``load_balancing`` that belong to one policy each, and subsets and sessions.

Reader to :class:`LoadBalancing`; how an endpoint is picked is not known here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from meshclient.config.native_values import (
    finish,
    flag_of,
    header_name,
    required,
    seconds_of,
    text_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.endpoint import labels_of
from meshclient.model.load_balancing import (
    LoadBalancing,
    OrcaWeights,
    PeakEwma,
    StatefulSession,
    SubsetFallback,
    SubsetSelection,
    SubsetSelector,
)

FALLBACKS = ("no_fallback", "any_endpoint", "default_subset")
SELECTOR_FALLBACKS = (*FALLBACKS, "keys_subset")

#: The shortest period in which weights are computed anew (gRPC A58).
_MIN_UPDATE_S = 0.1
_DEFAULT_ORCA = OrcaWeights()

#: Settings that only some policies look at.
_BELONG_TO = (
    (("least_request",), ("choice_count", "active_request_bias", "selection_method")),
    (("ring_hash",), ("minimum_ring_size", "maximum_ring_size", "hash_function")),
    (("maglev",), ("table_size",)),
    (("ring_hash", "maglev"), ("hash_balance_factor", "use_hostname_for_hashing")),
    (("round_robin", "least_request", "client_side_weighted_round_robin"), ("slow_start",)),
)


def read_policy_settings(r: Reader, balancing: LoadBalancing) -> LoadBalancing:
    """``balancing`` with what stands under the policies' own names and beside them."""
    ewma, orca, first = (
        _block(r, name, balancing)
        for name in ("peak_ewma", "client_side_weighted_round_robin", "pick_first")
    )
    subsets, session = r.field("subsets"), r.field("session")
    size = r.field("subset_size")
    count = size.integer(0, 2**32 - 1) if size is not None else None
    if size is not None and count == 1:
        size.error("a subset of one endpoint", suggestion="use policy: pick_first")
    return replace(
        balancing,
        peak_ewma=_peak_ewma(ewma) if ewma is not None else balancing.peak_ewma,
        orca=_orca(orca) if orca is not None else balancing.orca,
        shuffle_address_list=_pick_first(first) if first is not None else False,
        subsets=_subsets(subsets) if subsets is not None else None,
        session=_session(session) if session is not None else None,
        subset_size=count or 0,
    )


def warn_of_others(r: Reader, balancing: LoadBalancing) -> None:
    """Settings that stand beside ``policy`` and belong to another one: Envoy takes no notice."""
    for policies, names in _BELONG_TO:
        if balancing.policy in policies:
            continue
        for name in names:
            child = r.field(name)
            if child is not None:
                child.warning(
                    f"has no effect with policy {balancing.policy}",
                    code="no-effect",
                    suggestion=f"it is for {', '.join(policies)}",
                )


def _block(r: Reader, name: str, balancing: LoadBalancing) -> Reader | None:
    child = r.field(name)
    if child is not None and balancing.policy != name:
        child.error(
            f"has no effect with policy {balancing.policy}", suggestion=f"write policy: {name}"
        )
    return child


def _peak_ewma(r: Reader) -> PeakEwma:
    settings = PeakEwma(seconds_of(r, "default_rtt", 0.03), seconds_of(r, "decay", 10.0))
    finish(r, "peak_ewma")
    return settings


def _pick_first(r: Reader) -> bool:
    shuffle = flag_of(r, "shuffle_address_list")
    finish(r, "pick_first")
    return shuffle


def _orca(r: Reader) -> OrcaWeights:
    blackout = r.field("blackout_period")
    blackout_s = blackout.go_duration(allow_zero=True) if blackout is not None else None
    penalty = r.field("error_utilization_penalty")
    factor = penalty.number(0, 1_000_000) if penalty is not None else None
    names = r.field("metric_names_for_computing_utilization")
    update = r.field("weight_update_period")
    update_s = update.go_duration() if update is not None else None
    if update is not None and update_s is not None and update_s < _MIN_UPDATE_S:
        update.error("must be at least 100ms")
    settings = OrcaWeights(
        _DEFAULT_ORCA.blackout_period_s if blackout_s is None else blackout_s,
        seconds_of(r, "weight_expiration_period", _DEFAULT_ORCA.weight_expiration_period_s),
        update_s or _DEFAULT_ORCA.weight_update_period_s,
        factor or 0.0,
        tuple(names.strings()) if names is not None else (),
    )
    finish(r, "client_side_weighted_round_robin")
    return settings


def _subsets(r: Reader) -> SubsetSelection:
    default, listed = r.field("default_subset"), required(r, "subset_selectors")
    fallback = _fallback(r) or "no_fallback"
    panic = flag_of(r, "panic_mode_any")
    if panic and fallback == "no_fallback":
        r.error("panic_mode_any has no effect without a fallback_policy")
    found = [_selector(item) for item in (listed.elements() if listed is not None else ())]
    _check_selectors(listed, found)
    if default is not None and "default_subset" not in (fallback, *(s.fallback for s in found)):
        default.error("has no effect unless a fallback_policy is default_subset")
    labels = labels_of(default.string_map()) if default is not None else ()
    finish(r, "endpoint_subsets")
    return SubsetSelection(tuple(found), fallback, _wire(labels), panic)


def _fallback(r: Reader) -> SubsetFallback | None:
    child = r.field("fallback_policy")
    return cast("SubsetFallback | None", child.string(FALLBACKS)) if child is not None else None


def _check_selectors(r: Reader | None, found: list[SubsetSelector]) -> None:
    if r is None:
        return
    if not found and r.is_list:
        r.error("at least one selector is needed")
    seen: set[frozenset[str]] = set()
    for item, selector in zip(r.elements(), found, strict=False):
        keys = frozenset(selector.keys)
        if keys in seen:
            item.error("another selector has the same keys", code="conflict")
        seen.add(keys)


def _selector(r: Reader) -> SubsetSelector:
    keys, fewer = required(r, "keys"), r.field("fallback_keys_subset")
    child = r.field("fallback_policy")
    word = child.string(SELECTOR_FALLBACKS) if child is not None else None
    fallback = cast(Literal["keys_subset"] | SubsetFallback | None, word)
    selector = SubsetSelector(
        tuple(wire_text(key) for key in keys.strings()) if keys is not None else (),
        fallback,
        tuple(wire_text(key) for key in fewer.strings()) if fewer is not None else (),
        flag_of(r, "single_host_per_subset"),
    )
    if keys is not None and keys.is_list and not selector.keys:
        keys.error("at least one key is needed")
    _check_keys_subset(r, fewer, selector)
    finish(r, "subset_selector")
    return selector


def _check_keys_subset(r: Reader, fewer: Reader | None, selector: SubsetSelector) -> None:
    """Envoy's rule; it is also why the search with fewer keys comes to an end."""
    if selector.fallback == "keys_subset":
        if not selector.fallback_keys:
            r.error("fallback_policy keys_subset needs fallback_keys_subset", code="missing-field")
        elif not set(selector.fallback_keys) < set(selector.keys):
            (fewer or r).error("must be some of the keys, and not all of them")
    elif fewer is not None:
        fewer.error("has no effect without fallback_policy: keys_subset")


def _wire(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((wire_text(name), wire_text(value)) for name, value in labels)


def _session(r: Reader) -> StatefulSession | None:
    cookie, header = r.field("cookie"), r.field("header")
    strict = flag_of(r, "strict")
    found: StatefulSession | None = None
    if cookie is not None and header is not None:
        header.error("give only one of cookie and header", code="conflict")
    elif cookie is not None:
        found = _cookie(cookie, strict)
    elif header is not None:
        name = header.string()
        lower = header_name(name, header) if name is not None else None
        found = StatefulSession("header", lower, strict=strict) if lower else None
    elif r.is_mapping:
        r.error("give one of cookie and header", code="missing-field")
    finish(r, "session")
    return found


def _cookie(r: Reader, strict: bool) -> StatefulSession | None:
    if not r.is_mapping:
        text = r.string()
        return _named(r, text, "", 0.0, strict) if text is not None else None
    name_reader, ttl = required(r, "name"), r.field("ttl")
    name = name_reader.string() if name_reader is not None else None
    path = wire_text(text_of(r, "path"))
    ttl_s = ttl.go_duration(allow_zero=True) if ttl is not None else None
    if ttl is not None and ttl_s is not None and ttl_s != int(ttl_s):
        ttl.error("a cookie lives whole seconds")
    finish(r, "session_cookie")
    if path and (not path.startswith("/") or any(c in path for c in ";\r\n")):
        r.error("the path of a cookie begins with / and has no semicolon")
    at = name_reader or r
    return _named(at, name, path, ttl_s or 0.0, strict) if name is not None else None


def _named(r: Reader, name: str, path: str, ttl_s: float, strict: bool) -> StatefulSession | None:
    # A cookie's name is a token, as a header's is, but upper and lower case differ.
    if header_name(name, r) is None:
        return None
    return StatefulSession("cookie", name, path, ttl_s, strict)


def read_subset_labels(r: Reader) -> tuple[tuple[str, str], ...]:
    """The labels that a route asks its endpoint to carry."""
    labels = labels_of(r.string_map())
    if r.is_mapping and not labels:
        r.error("at least one label is needed")
    return _wire(labels)


__all__ = ["FALLBACKS", "SELECTOR_FALLBACKS", "read_policy_settings", "read_subset_labels"]
