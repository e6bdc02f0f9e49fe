"""Regular expressions of policies: RE2 syntax, Latin-1, linear time.

google-re2 does the work when it is installed (``pip install meshclient[re2]``);
otherwise :mod:`meshclient.model.linear_regex`, which accepts a large subset and
refuses the rest by name. The standard library's ``re`` backtracks and must
never see a pattern that came from a policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Protocol

from meshclient.model import linear_regex
from meshclient.model.linear_syntax import RegexError

try:
    import re2 as _re2
except ImportError:  # pragma: no cover - exercised by the forced fallback tests
    _re2 = None

Engine = Literal["re2", "linear"]

#: Compiled patterns kept; a policy set with more recompiles the rarest ones.
CACHE_SIZE = 2048
#: Memory of one compiled pattern (program and DFA cache), RE2's own default.
MAX_MEMORY_BYTES = 8 << 20
_PREFIX_LIMIT = 64

# One token of a rewrite: \0-\9, an escaped backslash, a bad escape, or text.
_REWRITE_TOKEN = re.compile(r"\\([0-9])|\\(\\)|(\\)|([^\\]+)", re.DOTALL)


class Regex(Protocol):
    """One compiled pattern. Immutable; safe to share between threads."""

    @property
    def pattern(self) -> str:
        """The pattern as it was written."""

    @property
    def groups(self) -> int:
        """Number of capturing groups."""

    @property
    def literal_prefix(self) -> str:
        """Text that every full match starts with; may be shorter than possible."""

    def fullmatch(self, text: str) -> bool:
        """Whether the whole ``text`` matches (Envoy's ``RE2::FullMatch``)."""

    def replace_all(self, text: str, rewrite: str) -> str:
        """``RE2::GlobalReplace``: every match, left to right, becomes ``rewrite``.

        ``\\0``-``\\9`` stand for groups (``\\0``: the match), ``\\\\`` for a
        backslash. Raises :class:`RegexError` for an invalid rewrite.
        """

    def check_rewrite(self, rewrite: str) -> None:
        """Raise :class:`RegexError` unless ``rewrite`` fits this pattern."""


Template = tuple[str | int, ...]


@lru_cache(maxsize=CACHE_SIZE)
def parse_rewrite(rewrite: str) -> Template:
    """Split a rewrite into text and group numbers; raises :class:`RegexError`."""
    parts: list[str | int] = []
    for match in _REWRITE_TOKEN.finditer(rewrite):
        digit, backslash, bad, text = match.groups()
        if bad:
            after = rewrite[match.end() : match.end() + 1]
            problem = f"\\{after} is not a group" if after else "it ends in a single backslash"
            raise RegexError(f"invalid rewrite {rewrite!r}: {problem} (use \\0 to \\9, or \\\\)")
        parts.append(int(digit) if digit else backslash or text)
    return tuple(parts)


def check_rewrite(rewrite: str, groups: int) -> Template:
    """The parsed rewrite, when it names no group beyond ``groups``."""
    template = parse_rewrite(rewrite)
    highest = max((part for part in template if isinstance(part, int)), default=0)
    if highest > groups:
        raise RegexError(
            f"invalid rewrite {rewrite!r}: \\{highest} but the pattern has "
            f"{groups} group{'' if groups == 1 else 's'}"
        )
    return template


def replace_all(matcher: Any, text: str, template: Template) -> str:
    """``RE2::GlobalReplace`` (re2.cc) over ``matcher.search(text, start)``.

    ``search`` gives the spans of the groups, or None. An empty match that
    touches the end of the match before is skipped, as RE2 does.
    """
    out: list[str] = []
    position, last_end, size = 0, -1, len(text)
    while position <= size:
        spans = matcher.search(text, position)
        if spans is None:
            break
        start, end = spans[0]
        out.append(text[position:start])
        if start == end == last_end:
            out.append(text[start : start + 1])
            position = start + 1
            continue
        for part in template:
            if isinstance(part, str):
                out.append(part)
            elif spans[part][0] >= 0:
                out.append(text[spans[part][0] : spans[part][1]])
        position = last_end = end
    out.append(text[position:])
    return "".join(out)


class _Re2Regex:
    """google-re2 on bytes. Two programs: without captures RE2 can stay in its DFA."""

    __slots__ = ("_captures", "_match", "groups", "literal_prefix", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        raw = _latin1(pattern)
        try:
            compiled = _re2.compile(raw, _options(never_capture=True))
            self._captures = _re2.compile(raw, _options(never_capture=False))
        except _re2.error as exc:
            raise RegexError(f"invalid regular expression {pattern!r}: {_reason(exc)}") from None
        self._match = _matcher(compiled)
        self.groups: int = self._captures.groups
        self.literal_prefix = _common_prefix(compiled)

    def fullmatch(self, text: str) -> bool:
        return self._match(text.encode("latin-1"))

    def search(self, text: str, start: int) -> list[tuple[int, int]] | None:
        found = self._captures.search(text.encode("latin-1"), start)
        return [found.span(g) for g in range(self.groups + 1)] if found else None

    def replace_all(self, text: str, rewrite: str) -> str:
        return replace_all(self, text, check_rewrite(rewrite, self.groups))

    def check_rewrite(self, rewrite: str) -> None:
        check_rewrite(rewrite, self.groups)

    def __repr__(self) -> str:
        return f"<Regex {self.pattern!r} (re2)>"


def _options(*, never_capture: bool) -> Any:
    options = _re2.Options()
    options.encoding = _re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = MAX_MEMORY_BYTES
    options.never_capture = never_capture
    return options


def _matcher(compiled: Any) -> Callable[[bytes], bool]:
    """RE2's own match function, past the match objects of its ``re``-like cover
    (a third of the time); that cover where a release has it arranged otherwise."""
    try:
        match, anchor = compiled._regexp.Match, _re2._Anchor.ANCHOR_BOTH
        match(anchor, b"", 0, 0)
    except (AttributeError, TypeError):
        fullmatch = compiled.fullmatch
        return lambda text: fullmatch(text) is not None
    missed = (-1, -1)
    return lambda text: match(anchor, text, 0, len(text))[0] != missed


def _reason(error: Exception) -> str:
    detail = error.args[0] if error.args else error
    return detail.decode("latin-1") if isinstance(detail, bytes) else str(detail)


def _common_prefix(compiled: Any) -> str:
    """From RE2's match range: any text between two bounds shares their prefix."""
    try:
        low, high = compiled.possiblematchrange(_PREFIX_LIMIT)
    except _re2.error:
        return ""
    size = 0
    for a, b in zip(low, high, strict=False):
        if a != b:
            break
        size += 1
    # The upper bound of /v1/.* is /v10, the text after all that start with /v1/; unless that
    # text itself matches, one more byte is certain.
    if size < len(low) and high == low[:size] + bytes((low[size] + 1,)):
        size += compiled.fullmatch(high) is None
    prefix: bytes = low[:size]
    return prefix.decode("latin-1")


def _latin1(pattern: str) -> bytes:
    try:
        return pattern.encode("latin-1")
    except UnicodeEncodeError as exc:
        raise RegexError(
            f"invalid regular expression {pattern!r}: character {pattern[exc.start]!r} is "
            "outside Latin-1 (patterns are compared byte by byte; write its UTF-8 bytes)"
        ) from None


class _LinearRegex:
    """The built-in engine behind the same interface."""

    __slots__ = ("_program", "groups", "literal_prefix", "pattern")

    def __init__(self, pattern: str) -> None:
        _latin1(pattern)
        self.pattern = pattern
        self._program = linear_regex.compile_linear(pattern)
        self.groups = self._program.groups
        self.literal_prefix = self._program.literal_prefix

    def fullmatch(self, text: str) -> bool:
        return self._program.fullmatch(text)

    def search(self, text: str, start: int) -> list[tuple[int, int]] | None:
        return self._program.search(text, start)

    def replace_all(self, text: str, rewrite: str) -> str:
        return replace_all(self, text, check_rewrite(rewrite, self.groups))

    def check_rewrite(self, rewrite: str) -> None:
        check_rewrite(rewrite, self.groups)

    def __repr__(self) -> str:
        return f"<Regex {self.pattern!r} (linear)>"


def engine() -> Engine:
    """Which engine :func:`compile_regex` uses in this process."""
    return "linear" if _re2 is None else "re2"


@lru_cache(maxsize=CACHE_SIZE)
def compile_with(name: Engine, pattern: str) -> Regex:
    """Compile with a named engine; ``"re2"`` needs google-re2."""
    return _LinearRegex(pattern) if name == "linear" else _Re2Regex(pattern)


def compile_regex(pattern: str) -> Regex:
    """Compile a policy's pattern (RE2 syntax, text of Latin-1 characters).

    Results are shared through a cache of :data:`CACHE_SIZE` patterns. Raises
    :class:`RegexError`, whose text names the pattern and the reason. Safe from
    any thread.
    """
    return compile_with(engine(), pattern)


__all__ = ["Engine", "Regex", "RegexError", "compile_regex", "compile_with", "engine"]
