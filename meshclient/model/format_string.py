"""Envoy's substitution strings in header edits: ``%REQ(x-user)%``, ``%%``.

Parsing and evaluation of one string. What the commands read is handed in as a
:class:`FormatContext`; nothing here looks for a header, a clock or a route by
itself. Source: Envoy ``substitution_format_utility.cc`` and
``http_specific_formatter.cc``; absent values are empty, as in Envoy's header
formatters (access logs write ``-`` there).
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from meshclient.model.format_time import FormatError, compile_time_format
from meshclient.model.headers import HeaderMap
from meshclient.model.request import RequestHead

CACHE_SIZE = 4096
#: Envoy's limit on the value of one header option.
MAX_LENGTH = 16_384

_COMMAND = re.compile(r"%([A-Z0-9_]+)(?:\((.*?)\))?(?::([0-9]{1,9}))?%", re.DOTALL)


class FormatContext:
    """What one evaluation may read. Built per call, only for non-constant strings.

    ``status`` is 0 while there is no response (Envoy prints ``0``);
    ``wall_time_s`` is seconds since 1970, None when the caller has no clock.
    """

    __slots__ = (
        "cluster",
        "head",
        "protocol",
        "response",
        "route_name",
        "status",
        "upstream_host",
        "wall_time_s",
    )

    def __init__(
        self,
        head: RequestHead,
        response: HeaderMap | None = None,
        status: int = 0,
        cluster: str = "",
        route_name: str = "",
        upstream_host: str = "",
        protocol: str = "HTTP/1.1",
        wall_time_s: float | None = None,
    ) -> None:
        self.head = head
        self.response = response
        self.status = status
        self.cluster = cluster
        self.route_name = route_name
        self.upstream_host = upstream_host
        self.protocol = protocol
        self.wall_time_s = wall_time_s


Command = Callable[[FormatContext], str]
Maker = Callable[[str, str], Command]
_PSEUDO: dict[str, Callable[[RequestHead], str]] = {
    ":path": lambda head: head.path,
    ":method": lambda head: head.method,
    ":authority": lambda head: head.authority,
    "host": lambda head: head.authority,  # Envoy keeps Host as :authority
    ":scheme": lambda head: head.scheme,
}


def request_header(head: RequestHead, name: str) -> str | None:
    """First value of a header or pseudo header, by lower-case name."""
    pseudo = _PSEUDO.get(name)
    return head.headers.get(name) if pseudo is None else pseudo(head) or None


def query_parameter(path: str, name: str) -> str | None:
    """First value of a query parameter, percent-decoded (bytes as Latin-1)."""
    _, _, query = path.partition("?")
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if _decode(key) == name:
            return _decode(value)
    return None


def _decode(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1") if "%" in text else text


def _header_names(name: str, args: str) -> tuple[str, str]:
    """``X-A?X-B`` -> the two lower-case names (the second may be empty)."""
    main, _, alternative = args.lower().partition("?")
    if not main or "?" in alternative:
        raise FormatError(f"%{name}({args})%: expected a header name, or two joined by '?'")
    return main, alternative


def _req(name: str, args: str) -> Command:
    main, alternative = _header_names(name, args)

    def read(context: FormatContext) -> str:
        value = request_header(context.head, main)
        if value is None and alternative:
            value = request_header(context.head, alternative)
        return value or ""

    return read


def _resp(name: str, args: str) -> Command:
    main, alternative = _header_names(name, args)

    def read(context: FormatContext) -> str:
        headers = context.response
        if headers is None:
            return ""
        value = headers.get(main)
        if value is None and alternative:
            value = headers.get(alternative)
        return value or ""

    return read


def _query_param(name: str, args: str) -> Command:
    if not args:
        raise FormatError(f"%{name}()%: expected the name of a query parameter")
    return lambda context: query_parameter(context.head.path, args) or ""


def _path(name: str, args: str) -> Command:
    query, _, which = args.partition(":")
    if query not in ("", "WQ", "NQ") or which not in ("", "ORIG", "PATH", "ORIG_OR_PATH"):
        raise FormatError(
            f"%{name}({args})%: expected WQ or NQ, then one of ORIG, PATH, ORIG_OR_PATH"
        )

    def read(context: FormatContext) -> str:
        path = "" if which == "PATH" else context.head.headers.get("x-envoy-original-path") or ""
        if not path and which != "ORIG":
            path = context.head.path
        return path.partition("?")[0] if query == "NQ" else path

    return read


def _start_time(_name: str, args: str) -> Command:
    write = compile_time_format(args)

    def read(context: FormatContext) -> str:
        return "" if context.wall_time_s is None else write(context.wall_time_s)

    return read


def _environment(name: str, args: str) -> Command:
    if not args:
        raise FormatError(f"%{name}()%: expected the name of an environment variable")
    # Read once: Envoy, too, takes the environment when the configuration is loaded.
    value = os.environ.get(args, "").encode("utf-8", "surrogateescape").decode("latin-1")
    return lambda _context: value


def _hostname(_name: str, _args: str) -> Command:
    value = platform.node()
    return lambda _context: value


def _plain(read: Command) -> Maker:
    return lambda _name, _args: read


# Command -> (maker, arguments: "required", "optional" or "none", :length allowed).
_COMMANDS: dict[str, tuple[Maker, str, bool]] = {
    "REQ": (_req, "required", True),
    "REQUEST_HEADER": (_req, "required", True),
    "RESP": (_resp, "required", True),
    "RESPONSE_HEADER": (_resp, "required", True),
    "QUERY_PARAM": (_query_param, "required", True),
    "PATH": (_path, "optional", True),
    "START_TIME": (_start_time, "optional", False),
    "ENVIRONMENT": (_environment, "required", True),
    "HOSTNAME": (_hostname, "none", False),
    "PROTOCOL": (_plain(lambda c: c.protocol), "none", False),
    "RESPONSE_CODE": (_plain(lambda c: str(c.status)), "none", False),
    "UPSTREAM_CLUSTER": (_plain(lambda c: c.cluster), "none", False),
    "UPSTREAM_CLUSTER_RAW": (_plain(lambda c: c.cluster), "none", False),
    "UPSTREAM_HOST": (_plain(lambda c: c.upstream_host), "none", False),
    "ROUTE_NAME": (_plain(lambda c: c.route_name), "none", False),
}

# Commands (or their first words) that describe a proxy, its listener or its log line.
_PROXY_ONLY = re.compile(
    r"DOWNSTREAM_|UPSTREAM_|CONNECTION_|BYTES_|WIRE_BYTES|FILTER_STATE|DYNAMIC_METADATA|METADATA"
    r"|CLUSTER_METADATA|PER_REQUEST_STATE|REQUESTED_SERVER_NAME|STREAM_ID|UNIQUE_ID|TRACE_ID"
    r"|SPAN_ID|TRAILER|RESPONSE_TRAILER|GRPC_STATUS|RESPONSE_|REQUEST_|COMMON_DURATION|DURATION"
    r"|ROUNDTRIP_DURATION|EMIT_TIME|LOCAL_REPLY_BODY|ACCESS_LOG_TYPE|VIRTUAL_|ATTEMPT_COUNT"
    r"|TLS_JA3_FINGERPRINT|CEL|QUERY_PARAMS|FILTER_CHAIN_NAME|RX_BYTES|TX_BYTES|SERVER_"
)


class FormatString:
    """One parsed string. Immutable; safe to share between threads.

    ``constant`` is the text itself when nothing has to be substituted, else
    None; ``commands`` names what is read.
    """

    __slots__ = ("_parts", "commands", "constant", "text")

    def __init__(self, text: str, parts: tuple[str | Command, ...], commands: frozenset[str]):
        self.text = text
        self.commands = commands
        self._parts = parts
        self.constant: str | None = None if commands else "".join(map(str, parts))

    def evaluate(self, context: FormatContext) -> str:
        """The text with every command replaced by its value (absent: empty)."""
        if self.constant is not None:
            return self.constant
        return "".join([p if isinstance(p, str) else p(context) for p in self._parts])

    def __repr__(self) -> str:
        return f"FormatString({self.text!r})"


def _truncated(command: Command, size: int) -> Command:
    return lambda context: command(context)[:size]


def _unknown(name: str) -> FormatError:
    if name not in _COMMANDS and _PROXY_ONLY.match(name):
        return FormatError(f"%{name}% describes a proxy or its log line; it has no meaning here")
    close = get_close_matches(name, _COMMANDS, n=1)
    hint = f" (did you mean %{close[0]}%?)" if close else f" (known: {', '.join(_COMMANDS)})"
    return FormatError(f"unknown command %{name}%{hint}")


def _command(name: str, args: str | None, size: str | None) -> Command:
    if name not in _COMMANDS:
        raise _unknown(name)
    make, arguments, sizable = _COMMANDS[name]
    if arguments == "required" and args is None:
        raise FormatError(f"%{name}% needs an argument in parentheses")
    if arguments == "none" and args is not None:
        raise FormatError(f"%{name}% takes no argument")
    if size is not None and not sizable:
        raise FormatError(f"%{name}% takes no length (':{size}')")
    command = make(name, args or "")
    return command if size is None else _truncated(command, int(size))


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise FormatError(f"a header value of {len(text)} characters is over {MAX_LENGTH}")
    for char in text:
        if char in "\r\n\0":
            raise FormatError(f"character {char!r} must not stand in a header value")
        if char > "\xff":
            raise FormatError(f"character {char!r} is outside Latin-1; write its UTF-8 bytes")


@lru_cache(maxsize=CACHE_SIZE)
def parse_format(text: str) -> FormatString:
    """Parse one header value; cached.

    Raises :class:`FormatError`, which names the command and a likely fix.
    """
    _check_text(text)
    parts: list[str | Command] = []
    names: set[str] = set()
    position = 0
    while (found := text.find("%", position)) >= 0:
        parts.append(text[position:found])
        if text.startswith("%%", found):
            parts.append("%")
            position = found + 2
            continue
        match = _COMMAND.match(text, found)
        if match is None:
            raise FormatError(
                f"{text!r}: '%' at position {found} starts no command (write %% for a percent sign)"
            )
        parts.append(_command(match[1], match[2], match[3]))
        names.add(match[1])
        position = match.end()
    parts.append(text[position:])
    return FormatString(text, tuple(p for p in parts if p != ""), frozenset(names))


__all__ = ["FormatContext", "FormatError", "FormatString", "parse_format", "request_header"]
