"""Subset selection: a call that asks for labels gets an endpoint that carries them.

Decides among sets of endpoints; within a set, a balancer that is handed in decides.
Source: Envoy ``load_balancing_policies/subset/subset_lb.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.state import EndpointState
from meshclient.model.endpoint import Labels
from meshclient.model.load_balancing import SubsetSelection, SubsetSelector

#: Makes the balancer of one set. The second argument is the one that served the same
#: labels before, or None.
MakeLeaf = Callable[[Sequence[EndpointState], Balancer | None], Balancer]

#: What stands for a fallback set among the subsets of the balancer before.
_ANY: Labels = (("", "any"),)
_DEFAULT: Labels = (("", "default"),)


class _Keys:
    """A node of the selectors' tree: the names on the way to it, and what they say."""

    __slots__ = ("children", "selector")

    def __init__(self) -> None:
        self.children: dict[str, _Keys] = {}
        self.selector: SubsetSelector | None = None


class OneHost(Balancer):
    """The subset that keeps one endpoint: that one, whatever its health, as in Envoy."""

    __slots__ = ("_only",)
    policy = "single_host_per_subset"

    def __init__(self, eligibility: Eligibility, turns: Iterator[int]) -> None:
        super().__init__(eligibility, turns)
        self._only = eligibility.all_states[0]

    def pick(
        self,
        rand: Rand,  # noqa: ARG002
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        return self._only


class Subsets(Balancer):
    """Balancers by labels, and what to do where a call's labels have none.

    A subset exists for every selector and every combination of values that an endpoint
    carries under all of its keys, whatever the endpoint's health. A call gets the subset
    whose labels are exactly its own: one label more or less is no subset. Then the
    selector with exactly those keys says what follows, else the cluster's fallback;
    ``keys_subset`` starts anew with fewer labels. A subset without a healthy endpoint is
    its own balancer's matter and no reason to fall back. A call without labels takes
    the cluster's fallback. Two look-ups more than the inner balancer; no lock.
    """

    __slots__ = (
        "_fallback",
        "_panic",
        "_selectors",
        "_sets",
        "on_outcome",
        "on_trailers",
        "refresh_at",
    )
    policy = "subset"

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        selection: SubsetSelection,
        make_leaf: MakeLeaf,
        previous: Balancer | None = None,
    ) -> None:
        super().__init__(eligibility, turns)
        states = eligibility.all_states
        before = previous._sets if isinstance(previous, Subsets) else {}
        self._sets: dict[Labels, Balancer] = {}
        for labels, (members, single) in _split(states, selection).items():
            if single:
                self._sets[labels] = OneHost(Eligibility(members[:1]), turns)
            else:
                self._sets[labels] = make_leaf(members, before.get(labels))
        self._selectors = _tree(selection.selectors)
        wanted = {s.fallback for s in selection.selectors} | {selection.fallback}
        if "any_endpoint" in wanted or selection.panic_mode_any:
            self._sets[_ANY] = make_leaf(states, before.get(_ANY))
        if "default_subset" in wanted:
            default = [s for s in states if _carries(s, selection.default_subset)]
            self._sets[_DEFAULT] = make_leaf(default, before.get(_DEFAULT))
        self._fallback = self._set_of(selection.fallback)
        self._panic = self._sets[_ANY] if selection.panic_mode_any else None
        leaves = self._sets.values()
        self.on_outcome = next((b.on_outcome for b in leaves if b.on_outcome is not None), None)
        self.on_trailers = next((b.on_trailers for b in leaves if b.on_trailers is not None), None)
        times = (leaf.refresh_at for leaf in leaves)
        self.refresh_at = min((at for at in times if at is not None), default=None)

    def _set_of(self, fallback: str | None) -> Balancer | None:
        if fallback == "any_endpoint":
            return self._sets[_ANY]
        return self._sets[_DEFAULT] if fallback == "default_subset" else None

    def pick(
        self, rand: Rand, now: float = 0.0, request: PickRequest | None = None
    ) -> EndpointState | None:
        wanted = request.subset if request is not None else ()
        while wanted:
            leaf = self._sets.get(wanted)
            if leaf is not None:
                return leaf.pick(rand, now, request)
            selector = self._find_selector(wanted)
            if selector is None or selector.fallback is None:
                break
            if selector.fallback != "keys_subset":
                leaf = self._set_of(selector.fallback)
                return None if leaf is None else leaf.pick(rand, now, request)
            keys = selector.fallback_keys
            wanted = tuple(pair for pair in wanted if pair[0] in keys)
        return self._fall_back(rand, now, request)

    def _fall_back(
        self, rand: Rand, now: float, request: PickRequest | None
    ) -> EndpointState | None:
        # Without a fallback there is no panic mode either, as in Envoy.
        if self._fallback is None:
            return None
        state = self._fallback.pick(rand, now, request)
        if state is None and self._panic is not None:
            state = self._panic.pick(rand, now, request)
        return state

    def _find_selector(self, wanted: Labels) -> SubsetSelector | None:
        node = self._selectors
        for name, _ in wanted:
            child = node.children.get(name)
            if child is None:
                return None
            node = child
        return node.selector

    def subsets(self) -> dict[Labels, Balancer]:
        """The subsets that exist, by their labels, without the fallback sets."""
        return {k: leaf for k, leaf in self._sets.items() if k not in (_ANY, _DEFAULT)}


def _split(
    states: Sequence[EndpointState], selection: SubsetSelection
) -> dict[Labels, tuple[list[EndpointState], bool]]:
    """The endpoints of each subset, and whether it keeps one only: as the selector that
    comes first says, where two make the same subset."""
    found: dict[Labels, tuple[list[EndpointState], bool]] = {}
    selectors = [(tuple(sorted(set(s.keys))), s) for s in selection.selectors]
    # The one endpoint of a single-host subset is the first of the lowest priority.
    for state in sorted(states, key=lambda state: state.endpoint.priority):
        carried = dict(state.endpoint.labels)
        for keys, selector in selectors:
            if not all(key in carried for key in keys):
                continue
            labels = tuple((key, carried[key]) for key in keys)
            members, _ = found.setdefault(labels, ([], selector.single_host_per_subset))
            if state not in members[-1:]:
                members.append(state)
    return found


def _tree(selectors: Sequence[SubsetSelector]) -> _Keys:
    """Selectors by their sorted keys. As in Envoy, a selector whose node is there already
    (the begin of a longer one that stands before it) brings no fallback of its own."""
    root = _Keys()
    for selector in selectors:
        node = root
        keys = sorted(set(selector.keys))
        for at, key in enumerate(keys):
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = _Keys()
                if at == len(keys) - 1:
                    child.selector = selector
            node = child
    return root


def _carries(state: EndpointState, labels: Labels) -> bool:
    carried = dict(state.endpoint.labels)
    return all(carried.get(name) == value for name, value in labels)


__all__ = ["MakeLeaf", "OneHost", "Subsets"]
