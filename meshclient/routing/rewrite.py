"""Path and host rewriting of one request head.

Source: Envoy ``router/config_impl.cc`` (``finalizeHostHeader``,
``currentUrlPathAfterRewriteWithMatchedPath``), ``http/utility.cc``
(``updateAuthority``).
"""

from __future__ import annotations

from collections.abc import Callable

from meshclient.model.format_string import request_header
from meshclient.model.matching import PathMatch
from meshclient.model.regex import compile_regex
from meshclient.model.request import RequestHead
from meshclient.model.routes import HostRewrite, PathRewrite
from meshclient.routing.match import segment_prefix
from meshclient.routing.text import path_only

#: The new target (with the query), or None where nothing changes.
PathEdit = Callable[[str], str | None]
HostRead = Callable[[RequestHead], str | None]


def compile_path_rewrite(rewrite: PathRewrite, match: PathMatch | None) -> PathEdit | None:
    """The rewrite as a function of the target; None for one that changes nothing.

    Raises ``RegexError`` for a bad pattern or rewrite.
    """
    if rewrite.kind == "regex":
        return _regex_edit(rewrite)
    value = rewrite.value
    if not value:
        return None
    size = None if rewrite.kind == "full" else _matched_size(match)
    if size is None:
        return lambda target: value + target[len(path_only(target)) :]
    return lambda target: value + target[size:]


def _matched_size(match: PathMatch | None) -> int | None:
    """Length of what a prefix match covers; None: the whole path is replaced."""
    if match is None:
        return 1  # a route without a path condition is Envoy's prefix "/"
    if match.kind == "prefix":
        return len(match.value)
    return len(segment_prefix(match.value)) if match.kind == "segment_prefix" else None


def _regex_edit(rewrite: PathRewrite) -> PathEdit:
    regex, substitution = compile_regex(rewrite.pattern), rewrite.value
    regex.check_rewrite(substitution)

    def edit(target: str) -> str | None:
        path = path_only(target)
        replaced = regex.replace_all(path, substitution)
        # Envoy takes an empty result for "no rewrite".
        return replaced + target[len(path) :] if replaced else None

    return edit


def rewrite_path(head: RequestHead, edit: PathEdit) -> None:
    """Apply ``edit``; the old target goes into ``x-envoy-original-path``."""
    target = edit(head.path)
    if target is not None:
        head.headers.set("x-envoy-original-path", head.path)
        head.path = target


def compile_host_rewrite(rewrite: HostRewrite) -> HostRead | None:
    """The new host as a function of the request; None for kind ``endpoint``,
    which only the picked endpoint can answer."""
    if rewrite.kind == "literal":
        value = rewrite.value
        return lambda _head: value
    if rewrite.kind == "header":
        name = rewrite.value.lower()
        return lambda head: request_header(head, name)
    if rewrite.kind == "path_regex":
        regex, substitution = compile_regex(rewrite.pattern), rewrite.value
        regex.check_rewrite(substitution)
        return lambda head: regex.replace_all(path_only(head.path), substitution)
    return None


def set_authority(head: RequestHead, host: str, append_forwarded: bool) -> None:
    """Replace the host; the old one goes into ``x-envoy-original-host`` and, if
    asked, to the end of ``x-forwarded-host`` unless it stands there already."""
    old = head.authority
    if append_forwarded and old:
        forwarded = ",".join(head.headers.get_all("x-forwarded-host"))
        if not forwarded:
            head.headers.set("x-forwarded-host", old)
        elif forwarded.rpartition(",")[2] != old:
            head.headers.set("x-forwarded-host", f"{forwarded},{old}")
    head.headers.set("x-envoy-original-host", old)
    head.authority = host
