"""Which DestinationRule governs a service, for one caller.

Merges the rules of one host and finds the one to use. Source of the order:
Istio ``pilot/pkg/model push_context.destinationRule``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from meshclient.config.istio_destination_rule import DestinationRule
from meshclient.config.istio_names import most_specific
from meshclient.model.snapshot import Node

ROOT_NAMESPACE = "istio-system"

_Table = dict[str, list[DestinationRule]]


class DestinationRules:
    """All rules, indexed by namespace and host. Immutable after construction."""

    def __init__(self, rules: Iterable[DestinationRule], node: Node) -> None:
        self._node = node
        self._local: dict[str, _Table] = defaultdict(lambda: defaultdict(list))
        self._exported: dict[str, _Table] = defaultdict(lambda: defaultdict(list))
        for rule in merge_rules(sorted(rules, key=lambda r: r.metadata.order)):
            own = rule.metadata.namespace
            if rule.visibility.visible_to(own):
                self._local[own][rule.host].append(rule)
            if rule.selector is None and (
                rule.visibility.public or rule.visibility.namespaces - {own}
            ):
                self._exported[own][rule.host].append(rule)

    def find(self, host: str, service_namespace: str) -> DestinationRule | None:
        """The rule for a service. The first level that knows the host decides,
        even when a later level names it more exactly."""
        caller = self._node.namespace
        found = self._pick(self._level_one(host))
        if found is not None:
            return found
        for namespace in dict.fromkeys((service_namespace, ROOT_NAMESPACE)):
            exported = self._rules(self._exported, namespace, host)
            visible = [rule for rule in exported if rule.visibility.visible_to(caller)]
            found = self._pick(visible)
            if found is not None:
                return found
        return None

    def _level_one(self, host: str) -> list[DestinationRule]:
        """Rules of the caller's namespace; in the root namespace only private
        ones, because the others are meant for everybody else."""
        caller = self._node.namespace
        if caller != ROOT_NAMESPACE:
            return self._rules(self._local, caller, host)
        private = {
            name: [r for r in rules if not r.visibility.public]
            for name, rules in self._local.get(caller, {}).items()
        }
        found = most_specific(host, {name: rules for name, rules in private.items() if rules})
        return found[1] if found is not None else []

    @staticmethod
    def _rules(index: dict[str, _Table], namespace: str, host: str) -> list[DestinationRule]:
        found = most_specific(host, index.get(namespace, {}))
        return found[1] if found is not None else []

    def _pick(self, rules: list[DestinationRule]) -> DestinationRule | None:
        """A rule that selects this workload beats one without a selector."""
        for rule in rules:
            if rule.selector is not None and set(rule.selector) <= set(self._node.labels):
                return rule
        return next((rule for rule in rules if rule.selector is None), None)


def merge_rules(rules: Iterable[DestinationRule]) -> list[DestinationRule]:
    """Rules of one host, namespace, audience and selector become one; the first
    is the base, later ones add new subsets and, at most, its missing policy."""
    merged: dict[object, DestinationRule] = {}
    for rule in rules:
        key = (rule.host, rule.metadata.namespace, rule.visibility, rule.selector)
        base = merged.get(key)
        merged[key] = rule if base is None else _merge(base, rule)
    return list(merged.values())


def _merge(base: DestinationRule, later: DestinationRule) -> DestinationRule:
    for subset in later.subsets:
        if base.subset(subset.name) is not None:
            subset.reader.warning(
                f'{base} already defines subset "{subset.name}" of {base.host}; '
                "this one is ignored",
                code="KIA0201",
            )
    if base.policy is not None and later.policy is not None:
        later.reader.warning(
            f"{base} already has a trafficPolicy for {base.host}; this one is ignored",
            code="duplicate-traffic-policy",
        )
    new = tuple(s for s in later.subsets if base.subset(s.name) is None)
    return replace(
        base,
        subsets=base.subsets + new,
        policy=base.policy if base.policy is not None else later.policy,
        documents=base.documents + later.documents,
    )
