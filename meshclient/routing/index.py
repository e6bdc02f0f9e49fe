"""Which routes of a virtual host can match at all, without trying each.

Routes are put on shelves by what their path must be or start with; a shelf
that holds many is divided by the exact header or query values they ask for.
The answer is always that of the plain scan: the first route in list order all
of whose conditions hold. Compiled on the control thread, then immutable.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from meshclient.model.matching import PathMatch, RouteMatch
from meshclient.model.regex import compile_regex
from meshclient.routing.match import (
    Condition,
    Dimension,
    compile_conditions,
    path_test,
    reader,
    segment_prefix,
)
from meshclient.routing.text import ascii_lower
from meshclient.routing.view import RequestView, ViewRead, ViewTest

T = TypeVar("T")

#: Routes of one dimension on a shelf from which a table beats trying each.
_DIVIDE_FROM = 4


class Entry(NamedTuple, Generic[T]):
    """A route on a shelf. ``test`` None: it matches whatever reaches it."""

    position: int
    test: ViewTest | None
    route: T


class _Candidate(NamedTuple, Generic[T]):
    position: int
    conditions: tuple[Condition, ...]
    route: T

    def entry(self) -> Entry[T]:
        return Entry(self.position, _all([c.test for c in self.conditions]), self.route)

    def without(self, dimension: Dimension) -> tuple[str, _Candidate[T]]:
        """The value asked for in ``dimension``, and the candidate without that test."""
        at = next(i for i, c in enumerate(self.conditions) if c.dimension == dimension)
        rest = self.conditions[:at] + self.conditions[at + 1 :]
        return self.conditions[at].value, self._replace(conditions=rest)


def _all(tests: list[ViewTest]) -> ViewTest | None:
    """The conjunction, tested left to right; halved so that depth stays small."""
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    middle = len(tests) // 2
    first, second = _all(tests[:middle]), _all(tests[middle:])
    assert first is not None
    assert second is not None
    return lambda view: first(view) and second(view)


class Shelf(Generic[T]):
    """Routes whose path condition is settled, in list order."""

    __slots__ = ("certain", "entries", "first", "tables")

    def __init__(self, candidates: list[_Candidate[T]]) -> None:
        candidates = _reachable(candidates)
        self.first = candidates[0].position
        self.tables: list[tuple[ViewRead, dict[str, Shelf[T]]]] = []
        while (dimension := _best_dimension(candidates)) is not None:
            candidates = self._divide(candidates, dimension)
        self.entries = [candidate.entry() for candidate in candidates]
        #: The first entry, when it matches whatever reaches the shelf.
        self.certain: Entry[T] | None = None
        if self.entries and not self.tables and self.entries[0].test is None:
            self.certain = self.entries[0]

    def _divide(self, candidates: list[_Candidate[T]], dimension: Dimension) -> list[_Candidate[T]]:
        """Move the candidates that ask for ``dimension`` into a table; the rest stay."""
        groups: dict[str, list[_Candidate[T]]] = {}
        rest = []
        for candidate in candidates:
            if any(condition.dimension == dimension for condition in candidate.conditions):
                value, remaining = candidate.without(dimension)
                groups.setdefault(value, []).append(remaining)
            else:
                rest.append(candidate)
        shelves = {value: Shelf(group) for value, group in groups.items()}
        self.tables.append((reader(dimension), shelves))
        return rest

    def find(self, view: RequestView, bound: int) -> Entry[T] | None:
        """The first route before position ``bound`` that matches, or None."""
        best = None
        for read, shelves in self.tables:
            for value in read(view):
                shelf = shelves.get(value)
                if shelf is not None and shelf.first < bound:
                    found = shelf.find(view, bound)
                    if found is not None:
                        best = found
                        bound = found[0]
        for entry in self.entries:
            if entry[0] >= bound:
                break
            test = entry[1]
            if test is None or test(view):
                return entry
        return best


def _reachable(candidates: list[_Candidate[T]]) -> list[_Candidate[T]]:
    """Nothing after a candidate without conditions is ever reached."""
    for count, candidate in enumerate(candidates, 1):
        if not candidate.conditions:
            return candidates[:count]
    return candidates


def _best_dimension(candidates: list[_Candidate[T]]) -> Dimension | None:
    counts = Counter(
        dimension
        for candidate in candidates
        for dimension in {c.dimension for c in candidate.conditions if c.dimension}
    )
    dimension, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return dimension if count >= _DIVIDE_FROM else None


class PrefixShelves(Generic[T]):
    """Shelves by required start of the path.

    In sorted order, every stored prefix of a text is a prefix of the text's
    predecessor, too; so one bisection and a walk up the chain of enclosing
    prefixes find them all.
    """

    __slots__ = ("keys", "least", "parents", "shelves")

    def __init__(self, groups: dict[str, list[_Candidate[T]]]) -> None:
        self.keys = sorted(groups)
        self.shelves = [Shelf(groups[key]) for key in self.keys]
        self.parents = _enclosing(self.keys)
        # The earliest position on a shelf or any that encloses it: where a walk may end.
        self.least: list[int] = []
        for shelf, parent in zip(self.shelves, self.parents, strict=True):
            above = self.least[parent] if parent >= 0 else shelf.first
            self.least.append(min(shelf.first, above))

    def find(self, path: str, view: RequestView, bound: int) -> Entry[T] | None:
        best = None
        keys = self.keys
        at = bisect_right(keys, path) - 1
        while at >= 0 and self.least[at] < bound:
            shelf = self.shelves[at]
            if shelf.first < bound and path.startswith(keys[at]):
                found = shelf.certain or shelf.find(view, bound)
                if found is not None:
                    best = found
                    bound = found[0]
            at = self.parents[at]
        return best


def _enclosing(keys: list[str]) -> list[int]:
    """For each sorted key the index of its longest proper prefix among them, or -1."""
    parents: list[int] = []
    open_keys: list[int] = []
    for at, key in enumerate(keys):
        while open_keys and not key.startswith(keys[open_keys[-1]]):
            open_keys.pop()
        parents.append(open_keys[-1] if open_keys else -1)
        open_keys.append(at)
    return parents


_Groups = dict[str, list[_Candidate[T]]]


class _PathTables(Generic[T]):
    """Shelves by exact path, by whole segments and by plain prefix, of one case rule."""

    __slots__ = ("exact", "prefixes", "segments")

    def __init__(self, groups: dict[str, _Groups[T]]) -> None:
        self.exact = {path: Shelf(group) for path, group in groups["exact"].items()}
        self.segments = PrefixShelves(groups["segment"]) if groups["segment"] else None
        self.prefixes = PrefixShelves(groups["prefix"]) if groups["prefix"] else None

    def find(self, path: str, view: RequestView, bound: int) -> Entry[T] | None:
        best = None
        shelf = self.exact.get(path)
        if shelf is not None and shelf.first < bound:
            best = shelf.certain or shelf.find(view, bound)
            if best is not None:
                bound = best[0]
        if self.segments is not None:
            # /a is a segment prefix of the path just if /a/ is a prefix of the path and "/".
            found = self.segments.find(path + "/", view, bound)
            if found is not None:
                best = found
                bound = found[0]
        if self.prefixes is not None:
            return self.prefixes.find(path, view, bound) or best
        return best


class RouteIndex(Generic[T]):
    """First match over ``(match, route)`` pairs in list order.

    ``only`` is the first route when it takes every target that starts with
    ``only_prefix``: the commonest table needs no look-up at all.
    """

    __slots__ = ("_count", "_folded", "_plain", "only", "only_prefix")

    def __init__(self, routes: Iterable[tuple[RouteMatch, T]]) -> None:
        plain: dict[str, _Groups[T]] = {"exact": {}, "segment": {}, "prefix": {}}
        folded: dict[str, _Groups[T]] = {"exact": {}, "segment": {}, "prefix": {}}
        self._count = 0
        self.only: T | None = None
        self.only_prefix = ""
        for position, (match, route) in enumerate(routes):
            kind, key, condition = _place(match.path)
            conditions = tuple(compile_conditions(match))
            if condition is not None:
                conditions = (condition, *conditions)
            if not position and kind == "prefix" and not conditions:
                self._catch_all(route, key)
            tables = folded if match.path is not None and _folds(match.path) else plain
            tables[kind].setdefault(key, []).append(_Candidate(position, conditions, route))
            self._count += 1
        self._plain = _PathTables(plain)
        self._folded = _PathTables(folded) if any(folded.values()) else None

    def _catch_all(self, route: T, prefix: str) -> None:
        """The first route takes every target with this prefix; no need to look further."""
        if "?" not in prefix and "#" not in prefix:
            self.only, self.only_prefix = route, prefix

    def find(self, view: RequestView) -> T | None:
        """The route of the first match, or None."""
        best = self._plain.find(view.path, view, self._count)
        if self._folded is not None:
            bound = self._count if best is None else best[0]
            best = self._folded.find(view.lower_path, view, bound) or best
        return None if best is None else best[2]


def _folds(path: PathMatch) -> bool:
    return path.ignore_case and path.kind != "regex"


def _place(path: PathMatch | None) -> tuple[str, str, Condition | None]:
    """The table, the key there, and what the key leaves to be tested."""
    if path is None:
        return "prefix", "", None
    if path.kind == "regex":
        return "prefix", compile_regex(path.value).literal_prefix, Condition(path_test(path))
    value = ascii_lower(path.value) if path.ignore_case else path.value
    if path.kind == "segment_prefix":
        return "segment", segment_prefix(value) + "/", None
    return path.kind, value, None
