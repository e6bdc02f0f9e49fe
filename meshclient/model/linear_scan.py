"""Reading a pattern character by character: escapes and the parts of classes.

The lower half of the built-in engine's parser; structure (groups, repeats) is
in :mod:`meshclient.model.linear_syntax`. Source: RE2 ``parse.cc``.
"""

from __future__ import annotations

from typing import NoReturn

from meshclient.model.linear_classes import ALL_BYTES, POSIX_CLASSES, SIMPLE_ESCAPES


class RegexError(ValueError):
    """A pattern or rewrite that cannot be used; the text says why."""


INSTALL_HINT = "install meshclient[re2] for the whole of RE2's syntax"


class Scanner:
    """A position in one pattern. Not thread-safe; lives while the pattern is parsed."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.groups = 0

    def fail(self, problem: str) -> NoReturn:
        raise RegexError(f"invalid regular expression {self.pattern!r}: {problem}")

    def refuse(self, construct: str) -> NoReturn:
        self.fail(f"the built-in engine has no {construct} ({INSTALL_HINT})")

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.peek(text):
            self.at += len(text)
            return True
        return False

    def next(self, problem: str) -> str:
        if self.at >= len(self.pattern):
            self.fail(problem)
        self.at += 1
        return self.pattern[self.at - 1]

    def escaped_char(self, char: str) -> str:
        """The one character that ``\\`` and ``char`` stand for."""
        if char in SIMPLE_ESCAPES:
            return SIMPLE_ESCAPES[char]
        if char == "x":
            return self.hexadecimal()
        if char in "01234567":
            return self.octal(char)
        if char in "pP":
            self.refuse(f"Unicode class \\{char}")
        if not char.isascii() or char.isalnum():
            self.fail(f"invalid escape sequence: \\{char}")
        return char

    def octal(self, first: str) -> str:
        digits = first
        while len(digits) < 3 and self.at < len(self.pattern):
            if self.pattern[self.at] not in "01234567":
                break
            digits += self.next("")
        if first != "0" and len(digits) == 1:
            self.fail(f"invalid escape sequence: \\{first} (back references are not in RE2)")
        return self.latin1(int(digits, 8))

    def hexadecimal(self) -> str:
        if self.take("{"):
            end = self.pattern.find("}", self.at)
            digits = self.pattern[self.at : end] if end >= 0 else ""
            self.at = end + 1
        else:
            digits = self.pattern[self.at : self.at + 2]
            self.at += 2
            if len(digits) != 2:
                self.fail("invalid escape sequence: \\x")
        if not digits or len(digits) > 8 or any(c not in "0123456789abcdefABCDEF" for c in digits):
            self.fail("invalid escape sequence: \\x")
        return self.latin1(int(digits, 16))

    def latin1(self, code: int) -> str:
        if code > 0xFF:
            self.refuse(f"character above U+00FF (\\x{{{code:X}}})")
        return chr(code)

    def posix_class(self) -> int | None:
        """``[:name:]``; RE2 reads it as plain characters when ``:]`` is missing."""
        end = self.pattern.find(":]", self.at + 2)
        if end < 0:
            return None
        name = self.pattern[self.at + 2 : end]
        negated = name.startswith("^")
        if name.removeprefix("^") not in POSIX_CLASSES:
            self.fail(f"invalid character class range: [:{name}:]")
        self.at = end + 2
        mask = POSIX_CLASSES[name.removeprefix("^")]
        return ALL_BYTES & ~mask if negated else mask

    def class_char(self) -> str:
        char = self.next("missing ]")
        if char != "\\":
            return char
        return self.escaped_char(self.next("trailing \\"))
