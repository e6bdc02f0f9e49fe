"""The built-in regular expression engine: linear time, no dependency.

A pattern becomes a Thompson program. Full matches run it as a lazily built,
bounded DFA; searches with groups run it as a Pike machine. Nothing in here
backtracks, so no text can make a match take more than
``len(text) * instructions`` steps.

Source: R. Cox, "Regular Expression Matching: the Virtual Machine Approach".
"""

from __future__ import annotations

from meshclient.model.linear_classes import WORD_MASK
from meshclient.model.linear_syntax import (
    Alternate,
    Assert,
    Assertion,
    Capture,
    Chars,
    Concat,
    Node,
    RegexError,
    Repeat,
    parse_pattern,
)

#: Instructions of one program; RE2's default memory limit is of the same order.
MAX_INSTRUCTIONS = 20_000
#: DFA transitions kept per pattern before the cache starts over.
MAX_TRANSITIONS = 10_000

# Instructions: (CHARS, mask, next), (SPLIT, preferred, other), (SAVE, slot, next),
# (ASSERT, kind, next), (MATCH, 0, 0).
CHARS, SPLIT, SAVE, ASSERT, MATCH = range(5)

Instruction = tuple[int, "int | Assertion", int]
Spans = list[tuple[int, int]]
# What stood before a position: nothing, a line end, a word character, another.
_START, _NEWLINE, _WORD, _OTHER = range(4)
# What stands after it: the same kinds, and the end of the text.
_END = _START


def _kind(char: str) -> int:
    if char == "\n":
        return _NEWLINE
    return _WORD if WORD_MASK >> ord(char) & 1 else _OTHER


def _holds(assertion: Assertion, before: int, after: int) -> bool:
    match assertion:
        case "begin_text":
            return before == _START
        case "end_text":
            return after == _END
        case "begin_line":
            return before in (_START, _NEWLINE)
        case "end_line":
            return after in (_END, _NEWLINE)
        case "word":
            return (before == _WORD) != (after == _WORD)
        case "not_word":
            return (before == _WORD) == (after == _WORD)


class _Compiler:
    """Builds a program from its end, so that every jump is known when it is made."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.code: list[Instruction] = []

    def emit(self, instruction: Instruction) -> int:
        if len(self.code) >= MAX_INSTRUCTIONS:
            raise RegexError(
                f"invalid regular expression {self.pattern!r}: pattern too large - compile failed"
            )
        self.code.append(instruction)
        return len(self.code) - 1

    def compile(self, node: Node, then: int) -> int:
        """Code for ``node`` that goes on at ``then``; the address of its start."""
        match node:
            case Chars(mask):
                return self.emit((CHARS, mask, then))
            case Assert(kind):
                return self.emit((ASSERT, kind, then))
            case Concat(parts):
                for part in reversed(parts):
                    then = self.compile(part, then)
                return then
            case Alternate(options):
                start = self.compile(options[-1], then)
                for option in reversed(options[:-1]):
                    start = self.emit((SPLIT, self.compile(option, then), start))
                return start
            case Capture(index, inner):
                body = self.compile(inner, self.emit((SAVE, 2 * index + 1, then)))
                return self.emit((SAVE, 2 * index, body))
            case Repeat():
                return self.repeat(node, then)

    def repeat(self, node: Repeat, then: int) -> int:
        inner, low, greedy = node.node, node.low, node.greedy
        if node.high is None:
            then = self.star(inner, then, greedy) if low == 0 else self.plus(inner, then, greedy)
            low = max(0, low - 1)
        else:
            # a{2,4} is aa(a(a)?)?: built inside out, every optional copy may leave.
            leave = then
            for _ in range(node.high - low):
                then = self.split(self.compile(inner, then), leave, greedy)
        for _ in range(low):
            then = self.compile(inner, then)
        return then

    def split(self, take: int, leave: int, greedy: bool) -> int:
        return self.emit((SPLIT, take, leave) if greedy else (SPLIT, leave, take))

    def plus(self, inner: Node, then: int, greedy: bool) -> int:
        loop = self.emit((MATCH, 0, 0))  # its place: the body must know where it comes back to
        body = self.compile(inner, loop)
        self.code[loop] = (SPLIT, body, then) if greedy else (SPLIT, then, body)
        return body

    def star(self, inner: Node, then: int, greedy: bool) -> int:
        if nullable(inner):
            # RE2 (compile.cc): x* of an x that may be empty is (x+)?, or priorities break.
            return self.split(self.plus(inner, then, greedy), then, greedy)
        loop = self.emit((MATCH, 0, 0))
        body = self.compile(inner, loop)
        self.code[loop] = (SPLIT, body, then) if greedy else (SPLIT, then, body)
        return loop


def nullable(node: Node) -> bool:
    """Whether ``node`` can match the empty text (assertions count as empty)."""
    match node:
        case Chars():
            return False
        case Assert():
            return True
        case Concat(parts):
            return all(nullable(part) for part in parts)
        case Alternate(options):
            return any(nullable(option) for option in options)
        case Capture(_, inner):
            return nullable(inner)
        case Repeat(inner, low):
            return low == 0 or nullable(inner)


class _State:
    """One DFA state: where the program may stand, and what came before."""

    __slots__ = ("accepts", "before", "next", "places")

    def __init__(self, places: frozenset[int], before: int) -> None:
        self.places = places
        self.before = before
        self.next: dict[str, _State] = {}
        self.accepts: bool | None = None


class _Cache:
    """The DFA so far. Replaced as a whole when full, so that threads never see a torn one."""

    __slots__ = ("start", "states", "transitions")

    def __init__(self, start: int) -> None:
        self.start = _State(frozenset((start,)), _START)
        self.states: dict[tuple[frozenset[int], int], _State] = {}
        self.transitions = 0


class Program:
    """A compiled pattern. Safe from any thread: its cache only ever loses work."""

    __slots__ = ("_cache", "_code", "_start", "groups", "literal_prefix", "pattern")

    def __init__(self, pattern: str) -> None:
        node, self.groups = parse_pattern(pattern)
        compiler = _Compiler(pattern)
        match = compiler.emit((MATCH, 0, 0))
        self.pattern = pattern
        self._start = compiler.compile(node, match)
        self._code = compiler.code
        self._cache = _Cache(self._start)
        self.literal_prefix = self._literal_prefix()

    def _literal_prefix(self) -> str:
        """Follow the program while it has no choice."""
        prefix, at = "", self._start
        while True:
            op, argument, then = self._code[at]
            if op == CHARS and isinstance(argument, int) and argument.bit_count() == 1:
                prefix += chr(argument.bit_length() - 1)
            elif op != SAVE and not (op == ASSERT and argument == "begin_text" and not prefix):
                return prefix
            at = then

    def fullmatch(self, text: str) -> bool:
        """Whether the whole text matches."""
        state = self._cache.start
        for char in text:
            following = state.next.get(char)
            state = following if following is not None else self._step(state, char)
            if not state.places:
                return False
        if state.accepts is None:
            state.accepts = self._accepts(state)
        return state.accepts

    def _accepts(self, state: _State) -> bool:
        reached = self._closure(state.places, state.before, _END)
        return any(self._code[at][0] == MATCH for at in reached)

    def _closure(self, places: frozenset[int], before: int, after: int) -> set[int]:
        """Every instruction reachable without reading a character."""
        seen: set[int] = set()
        stack = list(places)
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            op, argument, then = self._code[at]
            if op == SPLIT:
                stack += (argument, then)  # type: ignore[arg-type]
            elif op == SAVE or (op == ASSERT and _holds(argument, before, after)):  # type: ignore[arg-type]
                stack.append(then)
        return seen

    def _step(self, state: _State, char: str) -> _State:
        kind, code = _kind(char), ord(char)
        places = frozenset(
            then
            for op, mask, then in map(
                self._code.__getitem__, self._closure(state.places, state.before, kind)
            )
            if op == CHARS and mask >> code & 1  # type: ignore[operator]
        )
        cache = self._cache
        if cache.transitions >= MAX_TRANSITIONS:
            cache = self._cache = _Cache(self._start)
        cache.transitions += 1
        key = (places, kind)
        following = cache.states.get(key)
        if following is None:
            following = cache.states[key] = _State(places, kind)
        state.next[char] = following
        return following

    def search(self, text: str, start: int) -> Spans | None:
        """Leftmost match at or after ``start``, earlier alternatives preferred.

        The spans of the match and of every group, (-1, -1) where a group did
        not take part. What stands before ``start`` counts for ``^`` and ``\\b``.
        """
        before = _START if start == 0 else _kind(text[start - 1])
        threads: dict[int, tuple[int, ...]] = {}
        best: tuple[int, ...] | None = None
        unset = (-1,) * (2 * self.groups + 2)
        for position in range(start, len(text) + 1):
            char = text[position] if position < len(text) else ""
            after = _kind(char) if char else _END
            if best is None:
                threads.setdefault(self._start, (position, *unset[1:]))  # the least preferred
            if not threads:
                break
            runnable, found = self._advance(threads, position, before, after)
            if found is not None:
                best = (found[0], position, *found[2:])
            code = ord(char) if char else -1
            threads = {}
            for at, saved in runnable:
                _, mask, then = self._code[at]
                if char and mask >> code & 1 and then not in threads:  # type: ignore[operator]
                    threads[then] = saved
            before = after
        if best is None:
            return None
        return [(best[i], best[i + 1]) for i in range(0, len(best), 2)]

    def _advance(
        self, threads: dict[int, tuple[int, ...]], position: int, before: int, after: int
    ) -> tuple[list[tuple[int, tuple[int, ...]]], tuple[int, ...] | None]:
        """Follow empty moves in order of preference, up to the first match."""
        runnable: list[tuple[int, tuple[int, ...]]] = []
        seen: set[int] = set()
        stack = list(reversed(threads.items()))
        while stack:
            at, saved = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            op, argument, then = self._code[at]
            if op == MATCH:
                return runnable, saved
            if op == CHARS:
                runnable.append((at, saved))
            elif op == SPLIT:
                stack += ((then, saved), (argument, saved))  # type: ignore[arg-type]
            elif op == SAVE:
                slot: int = argument  # type: ignore[assignment]
                stack.append((then, (*saved[:slot], position, *saved[slot + 1 :])))
            elif _holds(argument, before, after):  # type: ignore[arg-type]
                stack.append((then, saved))
        return runnable, None


def compile_linear(pattern: str) -> Program:
    """Compile; raises :class:`RegexError` for what RE2 refuses or this engine lacks."""
    return Program(pattern)
