"""The part of RE2's syntax that the built-in engine understands, as a tree.

Parsing only; :mod:`meshclient.model.linear_regex` runs the tree. A construct
that RE2 has and this parser lacks is refused by name, never approximated.
Source of the grammar: RE2 ``parse.cc``, Perl-like flags, Latin-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from meshclient.model.linear_classes import ALL_BYTES, PERL_CLASSES, bit, fold, span
from meshclient.model.linear_scan import RegexError, Scanner

Assertion = Literal["begin_text", "end_text", "begin_line", "end_line", "word", "not_word"]

#: RE2's limit on one repeat, and on the product of nested ones.
MAX_REPEAT = 1000
#: Depth of parentheses; RE2 allows more, a policy needs far less.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of a set, a bit mask of 256 bits."""

    mask: int


@dataclass(frozen=True, slots=True)
class Assert:
    """A condition on a position, without width."""

    kind: Assertion


@dataclass(frozen=True, slots=True)
class Concat:
    """All parts in order; none is the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternate:
    """One of the options, the earlier preferred."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``low`` to ``high`` copies; ``high`` None is without limit."""

    node: Node
    low: int
    high: int | None
    greedy: bool


@dataclass(frozen=True, slots=True)
class Capture:
    """A capturing group; ``index`` counts from 1."""

    index: int
    node: Node


Node = Chars | Assert | Concat | Alternate | Repeat | Capture
EMPTY = Concat(())


@dataclass(slots=True)
class _Flags:
    ignore_case: bool = False
    multi_line: bool = False
    dot_newline: bool = False
    ungreedy: bool = False

    def copy(self) -> _Flags:
        return _Flags(self.ignore_case, self.multi_line, self.dot_newline, self.ungreedy)

    def become(self, other: _Flags) -> None:
        self.ignore_case = other.ignore_case
        self.multi_line = other.multi_line
        self.dot_newline = other.dot_newline
        self.ungreedy = other.ungreedy


_FLAG_NAMES = {"i": "ignore_case", "m": "multi_line", "s": "dot_newline", "U": "ungreedy"}


class Parser(Scanner):
    """Recursive descent over one pattern. Use :func:`parse_pattern`."""

    def alternation(self, flags: _Flags, depth: int) -> Node:
        """``a|b|c`` up to ``)`` or the end."""
        if depth > MAX_DEPTH:
            self.refuse(f"nesting deeper than {MAX_DEPTH}")
        options = [self.sequence(flags, depth)]
        while self.take("|"):
            options.append(self.sequence(flags, depth))
        return options[0] if len(options) == 1 else Alternate(tuple(options))

    def sequence(self, flags: _Flags, depth: int) -> Node:
        parts: list[Node] = []
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            if self.take(r"\Q"):
                quoted = self.quoted(flags)
                parts.extend(quoted[:-1])
                parts.extend(self.repeated(node, flags) for node in quoted[-1:])
                continue
            node = self.atom(flags, depth)
            if node is not None:
                parts.append(self.repeated(node, flags))
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def quoted(self, flags: _Flags) -> list[Node]:
        end = self.pattern.find(r"\E", self.at)
        text = self.pattern[self.at :] if end < 0 else self.pattern[self.at : end]
        self.at = len(self.pattern) if end < 0 else end + 2
        return [self.literal(char, flags) for char in text]

    def atom(self, flags: _Flags, depth: int) -> Node | None:
        """One item; None for a flag group such as ``(?i)``."""
        char = self.next("it ends too early")
        if char == "(":
            return self.group(flags, depth)
        if char == "[":
            return Chars(self.char_class(flags))
        if char == ".":
            return Chars(ALL_BYTES if flags.dot_newline else ALL_BYTES & ~bit("\n"))
        if char == "^":
            return Assert("begin_line" if flags.multi_line else "begin_text")
        if char == "$":
            return Assert("end_line" if flags.multi_line else "end_text")
        if char in "*+?":
            self.fail(f"no argument for repetition operator: {char}")
        if char == "\\":
            return self.escape(flags)
        if char == "{":
            self.at -= 1
            if self.counted() is not None:
                self.fail("no argument for repetition operator: {}")
            self.at += 1
        return self.literal(char, flags)

    @staticmethod
    def literal(char: str, flags: _Flags) -> Chars:
        return Chars(fold(bit(char)) if flags.ignore_case else bit(char))

    def group(self, flags: _Flags, depth: int) -> Node | None:
        if not self.take("?"):
            return self.capture(flags, depth)
        if self.take("P<") or (self.peek("<") and not self.peek("<=") and not self.peek("<!")):
            self.take("<")
            return self.named(flags, depth)
        for mark in ("=", "!", "<=", "<!"):
            if self.peek(mark):
                self.fail(f"look-around (?{mark} is not in RE2's syntax")
        scoped = self.flag_group(flags.copy())
        if self.take(")"):
            flags.become(scoped)  # (?i) holds to the end of the enclosing group
            return None
        if not self.take(":"):
            self.fail("invalid group (?")
        return self.closed(self.alternation(scoped, depth + 1))

    def flag_group(self, flags: _Flags) -> _Flags:
        value, seen = True, False
        while not self.peek(")") and not self.peek(":"):
            char = self.next("missing )")
            if char == "-" and value:
                value, seen = False, False
            elif char in _FLAG_NAMES:
                setattr(flags, _FLAG_NAMES[char], value)
                seen = True
            else:
                self.fail(f"invalid group (?{char}")
        if not value and not seen:
            self.fail("missing flag after (?-")
        return flags

    def named(self, flags: _Flags, depth: int) -> Node:
        end = self.pattern.find(">", self.at)
        name = self.pattern[self.at : end] if end >= 0 else ""
        if not name or not all(c == "_" or (c.isascii() and c.isalnum()) for c in name):
            self.fail("invalid name of a capturing group")
        self.at = end + 1
        return self.capture(flags, depth)

    def capture(self, flags: _Flags, depth: int) -> Node:
        self.groups += 1
        index = self.groups
        return Capture(index, self.closed(self.alternation(flags.copy(), depth + 1)))

    def closed(self, node: Node) -> Node:
        if not self.take(")"):
            self.fail("missing )")
        return node

    def repeated(self, node: Node, flags: _Flags) -> Node:
        """Apply the repetition operators that follow ``node``."""
        bounds = self.repetition()
        if bounds is None:
            return node
        low, high = bounds
        greedy = not self.take("?")
        after = self.at
        if self.repetition() is not None:
            self.fail(f"bad repetition operator: {self.pattern[after - 1 : self.at]}")
        return Repeat(node, low, high, greedy != flags.ungreedy)

    def repetition(self) -> tuple[int, int | None] | None:
        for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(mark):
                return bounds
        return self.counted() if self.peek("{") else None

    def counted(self) -> tuple[int, int | None] | None:
        """``{n}``, ``{n,}``, ``{n,m}``; anything else after ``{`` is literal text."""
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : end].partition(",")
        if end < 0 or not _digits(low) or (high and not _digits(high)):
            return None
        self.at = end + 1
        first = int(low) if len(low) < 9 else MAX_REPEAT + 1
        last = first
        if high:
            last = int(high) if len(high) < 9 else MAX_REPEAT + 1
        if max(first, last) > MAX_REPEAT or first > last:
            self.fail(f"bad repetition: {{{low}{comma}{high}}}")
        return first, None if comma and not high else last

    def escape(self, flags: _Flags) -> Node:
        char = self.next("trailing \\")
        if char in "bB":
            return Assert("word" if char == "b" else "not_word")
        if char in "Az":
            return Assert("begin_text" if char == "A" else "end_text")
        if char == "C":
            return Chars(ALL_BYTES)
        if char in PERL_CLASSES:
            return Chars(PERL_CLASSES[char])
        return self.literal(self.escaped_char(char), flags)

    def char_class(self, flags: _Flags) -> int:
        """``[...]`` after its opening bracket."""
        negated = self.take("^")
        mask, first = 0, True
        while first or not self.peek("]"):
            if self.at >= len(self.pattern):
                self.fail("missing ]")
            mask |= self.class_item(flags)
            first = False
        self.at += 1
        return ALL_BYTES & ~mask if negated else mask

    def class_item(self, flags: _Flags) -> int:
        if self.peek("[:"):
            posix = self.posix_class()
            if posix is not None:
                return posix
        if self.peek("\\") and self.at + 1 < len(self.pattern):
            char = self.pattern[self.at + 1]
            if char in PERL_CLASSES:
                self.at += 2
                return PERL_CLASSES[char]
        low = high = self.class_char()
        following = self.pattern[self.at + 1 : self.at + 2]
        if self.peek("-") and following and following != "]":
            self.at += 1
            high = self.class_char()
        if high < low:
            self.fail(f"invalid character class range: {low}-{high}")
        mask = span(low, high)
        return fold(mask) if flags.ignore_case else mask


def _digits(text: str) -> bool:
    return bool(text) and text.isascii() and text.isdigit()


def parse_pattern(pattern: str) -> tuple[Node, int]:
    """The tree of a pattern and its number of groups; raises :class:`RegexError`."""
    parser = Parser(pattern)
    node = parser.alternation(_Flags(), 0)
    if parser.at < len(pattern):
        parser.fail("unexpected )")
    if _repeat_product(node) > MAX_REPEAT:
        parser.fail(f"nested repetitions multiply to more than {MAX_REPEAT}")
    return node, parser.groups


def _repeat_product(node: Node) -> int:
    """RE2's RepetitionWalker: the largest product of counts along one branch."""
    if isinstance(node, Repeat):
        count = node.high if node.high is not None else node.low
        return max(count, 1) * _repeat_product(node.node)
    if isinstance(node, Capture):
        return _repeat_product(node.node)
    if isinstance(node, Concat):
        return max((_repeat_product(part) for part in node.parts), default=1)
    if isinstance(node, Alternate):
        return max(_repeat_product(option) for option in node.options)
    return 1


__all__ = [
    "Alternate",
    "Assert",
    "Assertion",
    "Capture",
    "Chars",
    "Concat",
    "Node",
    "RegexError",
    "Repeat",
    "parse_pattern",
]
