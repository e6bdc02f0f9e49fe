"""Header edits of one scope, compiled.

Within a scope, as in Envoy's ``header_parser.cc``: removals; then every value
is evaluated on the headers as they are now; then all overwrites; then all
appends. The order of the scopes is :mod:`meshclient.routing.route`'s business.
"""

from __future__ import annotations

from meshclient.model.format_string import FormatContext, FormatString, parse_format
from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.routes import HeaderChange, HeaderOperations


def _editable(name: str) -> bool:
    """Pseudo headers and Host belong to the rewrites (Envoy refuses them here)."""
    return not name.startswith(":") and name != "host"


class _Change:
    __slots__ = ("action", "keep_empty", "key", "name", "value")

    def __init__(self, change: HeaderChange) -> None:
        self.name = change.name.lower()
        self.key = self.name.encode("latin-1")
        self.value: FormatString = parse_format(change.value)
        self.action = change.action
        self.keep_empty = change.keep_empty

    def applies(self, headers: HeaderMap) -> bool:
        """Whether the action does anything to these headers."""
        if self.action == "add_if_absent":
            return self.name not in headers
        if self.action == "overwrite_if_exists":
            return self.name in headers
        return True

    @property
    def overwrites(self) -> bool:
        return self.action in ("overwrite", "overwrite_if_exists")


class HeaderEdits:
    """The operations of one scope; false when there are none.

    Raises :class:`~meshclient.model.format_string.FormatError` for a bad
    value. Immutable after construction.
    """

    __slots__ = ("_changes", "_drop", "_lines", "_remove", "is_constant")

    def __init__(self, operations: HeaderOperations) -> None:
        removed = (name.lower() for name in operations.remove)
        self._remove = frozenset(n.encode("latin-1") for n in removed if _editable(n))
        changes = [_Change(c) for c in operations.changes if _editable(c.name.lower())]
        self._changes = [c for c in changes if c.value.constant != "" or c.keep_empty]
        #: No value depends on the request, so no context is needed.
        self.is_constant = all(c.value.constant is not None for c in self._changes)
        self._drop = self._remove
        self._lines: RawHeaders | None = None
        if self.is_constant and all(c.action in ("append", "overwrite") for c in self._changes):
            values = [(c, c.value.constant or "") for c in self._changes]
            self._drop, self._lines = _plan(self._remove, values)

    def __bool__(self) -> bool:
        return bool(self._remove or self._changes)

    def apply(self, headers: HeaderMap, context: FormatContext | None) -> None:
        """Edit ``headers``. ``context`` may be None if :attr:`is_constant`."""
        if self._lines is not None:
            headers.edit(self._drop, self._lines)
            return
        if self._remove:
            headers.edit(self._remove, [])
        values = []
        for change in self._changes:
            value = change.value.constant
            if value is None:
                assert context is not None
                value = change.value.evaluate(context)
            if (value or change.keep_empty) and change.applies(headers):
                values.append((change, value))
        headers.edit(*_plan(frozenset(), values))


def _plan(
    remove: frozenset[bytes], values: list[tuple[_Change, str]]
) -> tuple[frozenset[bytes], RawHeaders]:
    """What to drop and what to add at the end: overwrites (the last of a name
    wins), then appends."""
    overwrites = {c.key: value.encode("latin-1") for c, value in values if c.overwrites}
    appends = [(c.key, value.encode("latin-1")) for c, value in values if not c.overwrites]
    return remove | overwrites.keys(), [*overwrites.items(), *appends]
